"""Tables of titles and pictures: their files, rows and columns, to documents."""
