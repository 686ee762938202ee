"""The trainings of a model: autoencoder, diffusion, vcm, segmenter; each resumes after being killed."""
