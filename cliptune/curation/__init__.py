"""What a model says of the data that it is to be trained on: hard negatives, and suspects."""
