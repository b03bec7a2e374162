"""Pictures of masks and their tiles: sampled from a plan, drawn as text, SVG or PNG."""
