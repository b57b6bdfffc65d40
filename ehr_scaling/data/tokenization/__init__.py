"""From events to tokens: the rules, what of them is fitted on the train split, and the way back."""
