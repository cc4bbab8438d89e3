"""The lab's own part of the server: guesses slowed down, files saved whole, outputs kept while no browser is open."""

from lab_server.pages import add_handlers

_load_jupyter_server_extension = add_handlers


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """What Jupyter Server asks a module for that it is told to load."""
    return [{"module": "lab_server"}]
