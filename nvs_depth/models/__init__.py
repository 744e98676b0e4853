"""The networks: encoder, moved latent points, depth decoder, warps, view decoder."""
