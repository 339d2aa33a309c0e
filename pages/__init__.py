"""The pages of the site, one file each.

To remove a page, delete its file here, its template and its line in app.py; the navigation is built from the pages
that are left. web/ holds what they share.
"""
