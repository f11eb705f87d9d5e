"""Tasks: data, losses, metrics and experiments on the library's models. Import the one you need.

==================================  ===================================================================
``geoattn.tasks.shallow_water``     a spectral solver, Williamson's and Galewsky's cases, training data
``geoattn.tasks.forecast``          forecasts of a store of one's own, on any grid
``geoattn.tasks.panoramas``         rendered rooms, and Stanford's 2D-3D-S as full panoramas
``geoattn.tasks.segmentation``      classes of pixels: loss, scores, trivial predictors
``geoattn.tasks.depth``             distances of pixels: loss, scores, a trivial predictor
``geoattn.tasks.equivariance``      how far attention on a grid is from attention on the sphere
==================================  ===================================================================
"""
