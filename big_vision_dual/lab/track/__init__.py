"""`bvd track`: optimizers race on equal terms: same data, model, steps and number of trials. See docs/track.md."""
