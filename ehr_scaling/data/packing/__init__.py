"""The `packed/t<T>/` artifact: rows of T+1 tokens, how they are filled, and batches of them."""
