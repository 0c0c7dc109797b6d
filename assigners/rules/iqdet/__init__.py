"""IQDet and the samplers that its tables compare it with."""
