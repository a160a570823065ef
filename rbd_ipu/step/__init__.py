"""One step: the model's state as a vector, the update, the compiled loop over n steps."""
