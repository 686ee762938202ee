"""The trainings of a model: autoencoder, diffusion, vcm, sketch, segmenter; each resumes after being killed."""
