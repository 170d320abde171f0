"""Models that Vid-LLM is compared with: the cascade of VGGT and LLaVA-3D, and other published networks."""
