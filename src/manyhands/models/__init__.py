"""Language models: one provider per file, all with the face of :class:`manyhands.models.base.Model`."""
