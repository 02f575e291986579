"""Files of SAEs in the field's formats, read into one form and written from it."""
