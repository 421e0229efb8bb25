"""Those who watch: the console of one agent, and the board of many.

They read what runs tell or show of themselves; no run knows them.
"""
