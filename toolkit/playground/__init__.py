"""`toolkit playground`: a local web page on which people see a language model think, and teach it."""
