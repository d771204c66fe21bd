"""The HTTP API: paths, form parameters and JSON as in Eclair's API, so that eclair-cli works.

* :mod:`.interface`: what the API needs of the node.
* :mod:`.forms`: kinds of parameters, each with its reader and its clear refusal.
* :mod:`.calls`: a call is declared once; the route, the parameters' checks and the OpenAPI page
  follow.
* :mod:`.routes`: the calls.
* :mod:`.json`: our values as Eclair's JSON.
* :mod:`.auth`, :mod:`.app`, :mod:`.server`: the way in.
"""
