"""Pictures of anybody's: fetched, decoded and resized to what a vision tower takes."""
