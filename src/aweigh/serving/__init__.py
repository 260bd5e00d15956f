"""`aweigh serve`: a detector that answers requests over HTTP, and the page to try it on."""
