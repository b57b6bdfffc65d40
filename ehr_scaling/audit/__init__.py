"""What trained models remember of the patients they were trained on."""
