"""The page: Gradio, mounted on the server at /ui. See a summary, a memory, a run and the data."""
