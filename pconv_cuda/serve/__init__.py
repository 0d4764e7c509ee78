"""``pconv serve``: inpainting in the browser and as an HTTP API.

Needs the extra ``[serve]``; nothing but the command imports it.
"""
