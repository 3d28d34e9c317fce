"""Reading: tables, folders and pushed data sets to documents, and their pictures to pixels."""
