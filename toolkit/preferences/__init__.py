"""The preferences stage: answers of models, compared by an annotator, as data for reward models and DPO."""
