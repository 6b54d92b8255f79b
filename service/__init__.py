"""The HTTP edge and the wiring: the only room that imports fastapi."""
