"""A trace in the forms people read: in the terminal, as Markdown, as a page of HTML."""
