"""`quietbox enhance`: sound files of any kind read, processed by the live chain, and written."""
