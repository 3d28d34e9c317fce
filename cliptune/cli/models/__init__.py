"""Commands on trained models: in and out, compared, reported on, mixed, made faster."""
