"""The tests of the site and of the sessions package; run from the project folder with make test."""
