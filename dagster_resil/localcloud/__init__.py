"""The laptop's Google Cloud: strict stand-ins for the services that backups live on.

They are stricter than they are complete. What a backup relies on is enforced as Google documents
it; what is not done answers 501, never something that merely looks right. They are spoken to by
Google's own client libraries, listen on loopback only, and keep everything on disk.

``server`` takes the requests and ``protocol`` has their words; ``identities`` says who may do
what, ``faults`` what goes wrong on purpose; each service has a folder: ``storage`` is Cloud
Storage, ``sql`` is Cloud SQL. ``running`` starts all of it beside another program, and
``python -m dagster_resil.localcloud`` alone.
"""
