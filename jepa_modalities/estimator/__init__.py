"""scikit-learn estimators: pretraining inside `fit`, features out of `transform`."""
