"""
Heap's contract in numbers.

Every limit names the place it comes from. Lengths of text are UTF-16 code
units unless a comment says otherwise, because that is what Heap's own SDKs
count. This module must not know how a limit is applied; that is `wire` and
`repair`.

Sources, by their short names in the comments:

- *reference*: Heap's developer page (docs.heap.io/reference), client and
  server APIs.
- *track*, *bulk track*, *identify*, *add_user_properties*, *add_account_properties*,
  *user_deletion*: the pages of the server-side HTTP API.
- *core SDK*: heap-swift-core-sdk 0.7.2, the last release with full source.
"""

from typing import Final

# -- names and values ---------------------------------------------------------

#: Reference, client `track`: "Limited to 255 characters". The HTTP API takes
#: 1024 and the core SDK cuts at 512; the smallest of the three is safe with all.
EVENT_NAME: Final = 255

#: Core SDK: a property whose key is longer is dropped.
PROPERTY_KEY: Final = 512

#: Reference, `addEventProperties`, and *track*: "fewer than 1024 characters".
EVENT_VALUE: Final = 1023

#: Reference, `addUserProperties`: "255 characters or fewer".
USER_VALUE: Final = 255

#: Reference, `identify`: "Must be fewer than 255 characters".
IDENTITY: Final = 254

#: All event properties that stay in force, keys and values, in UTF-8 bytes of
#: their JSON. Heap's web SDK keeps them in a 4 KB cookie; twice that is ours.
EVENT_PROPERTIES_BYTES: Final = 8_192

#: JSON numbers beyond this lose digits in JavaScript; also the largest
#: `user_id` (*track*: 0 … 2^53-1).
SAFE_INTEGER: Final = 2**53 - 1

#: *add_user_properties* and reference: `user_id` and any casing of `id` may not
#: be keys of user properties.
RESERVED_USER_KEYS: Final = frozenset({"user_id"})
RESERVED_USER_KEYS_ANY_CASE: Final = frozenset({"id"})

#: *track*: array values are joined with this by Heap's server.
LIST_SEPARATOR: Final = "||"

#: *track*, *add_user_properties*, *add_account_properties*: names and keys of 1024, values
#: of "fewer than 1024" characters. Heap's own Ruby and Node clients send 1024 and
#: refuse 1025, so that is what a server may do; devices keep to the limits above.
SERVER_TEXT: Final = 1_024

#: *identify*: "limited to 255 characters"; the two clients agree.
SERVER_IDENTITY: Final = 255

# -- requests ------------------------------------------------------------------

#: One event, in bytes of its JSON. Core SDK: collectors cannot forward 0.8 MB.
EVENT_BYTES: Final = 786_432

#: *bulk track*, *bulk add_user_properties*: at most 1000 per request.
BATCH_ITEMS: Final = 1_000

#: *user_deletion*: "Up to 10,000 users can be submitted in a single request".
DELETION_USERS: Final = 10_000

#: The core SDK's byte limit of one batch; Heap publishes none for the HTTP API.
BATCH_BYTES: Final = 1_000_000

#: Reference, Bulk Track: 1000 events per minute per identity per app_id.
IDENTITY_EVENTS_PER_MINUTE: Final = 1_000

#: Reference, Bulk Track: 15,000 events per minute per app_id.
APP_EVENTS_PER_MINUTE: Final = 15_000

#: Reference, Add User Properties: 30 requests per 30 seconds per identity.
REQUESTS_PER_IDENTITY: Final = 30
REQUESTS_PER_IDENTITY_SECONDS: Final = 30.0

#: *identify*: an identity takes 10 user_ids a month. Nothing here can count the
#: other devices, so it is documented rather than enforced.
USER_IDS_PER_IDENTITY_AND_MONTH: Final = 10

# -- time ----------------------------------------------------------------------

#: Seconds between two deliveries. Classic iOS SDK headers and core SDK: 15.
INTERVAL: Final = 15.0

#: Heap documents no minimum; below this a typo would make a busy loop.
INTERVAL_MINIMUM: Final = 0.1

#: A session ends after this many seconds without an event. Heap's web SDK: 30
#: minutes; its phones take 5.
SESSION_TIMEOUT: Final = 1_800.0

#: An unchanged user property is sent again after a day, so that a profile that
#: was changed elsewhere comes right (our choice).
USER_PROPERTY_RESEND: Final = 86_400.0

# -- hosts ---------------------------------------------------------------------

#: OpenAPI pages: hosts of the two data regions.
HOSTS: Final = {"us": "https://heapanalytics.com", "eu": "https://c.eu.heap-api.com"}

#: OpenAPI pages: paths of the ingestion API.
TRACK_PATH: Final = "/api/track"
IDENTIFY_PATH: Final = "/api/v1/identify"
USER_PROPERTIES_PATH: Final = "/api/add_user_properties"
ACCOUNT_PROPERTIES_PATH: Final = "/api/add_account_properties"

#: *user_deletion*: paths of the deletion API; the id of a deletion request follows the last one.
AUTH_TOKEN_PATH: Final = "/api/public/v0/auth_token"
USER_DELETION_PATH: Final = "/api/public/v0/user_deletion"
DELETION_STATUS_PATH: Final = "/api/public/v0/deletion_status"
