"""Other people's models that Vid-LLM is compared with: VGGT with LLaVA-3D as one model, and what is theirs in it."""
