"""The MSC3079 profile as the CoAP peers speak it: key and path tables, CBOR with integer keys.

Version 1 of both tables, from MSC3079 appendix A and B (Apache-2.0). Written apart from the hub's
own tables on purpose: a slip in one of them must not be in both.
"""
import cbor2

TOKEN_OPTION = 256    # the access token, without "Bearer "; sticky for the connection
VERSION_OPTION = 257  # the version of the key table that the client reads
CBOR, JSON = 60, 50   # content formats

_KEYS = """
    event_id type content state_key room_id sender user_id origin_server_ts unsigned
    prev_content state timeline events limited prev_batch transaction_id age redacted_because
    next_batch presence avatar_url account_data rooms join membership displayname body msgtype
    format formatted_body ephemeral invite_state leave third_party_invite is_direct hashes
    signatures depth prev_events prev_state auth_events origin creator join_rule
    history_visibility ban events_default kick redact state_default users users_default reason
    visibility room_alias_name name topic invite invite_3pid room_version creation_content
    initial_state preset servers identifier user medium address password token device_id
    initial_device_display_name access_token home_server well_known base_url device_lists
    to_device peek last_seen_ip display_name typing last_seen_ts algorithm sender_key session_id
    ciphertext one_time_keys timeout recent_rooms chunk m.fully_read device_keys failures
    device_display_name prev_sender replaces_state changed unstable_features versions devices
    errcode error room_alias
""".split()
assert len(_KEYS) == 104
INT_OF = {key: number for number, key in enumerate(_KEYS, start=1)}
KEY_OF = dict(enumerate(_KEYS, start=1))

# code and template; all below /_matrix/client/r0 but the first
_PATHS = """
    0 versions
    1 login
    2 capabilities
    3 logout
    4 register
    5 user/{userId}/filter
    6 user/{userId}/filter/{filterId}
    7 sync
    8 rooms/{roomId}/state/{eventType}/{stateKey}
    9 rooms/{roomId}/send/{eventType}/{txnId}
    A rooms/{roomId}/event/{eventId}
    B rooms/{roomId}/state
    C rooms/{roomId}/members
    D rooms/{roomId}/joined_members
    E rooms/{roomId}/messages
    F rooms/{roomId}/redact/{eventId}/{txnId}
    G createRoom
    H directory/room/{roomAlias}
    I joined_rooms
    J rooms/{roomId}/invite
    K rooms/{roomId}/join
    L join/{roomIdOrAlias}
    M rooms/{roomId}/leave
    N rooms/{roomId}/forget
    O rooms/{roomId}/kick
    P rooms/{roomId}/ban
    Q rooms/{roomId}/unban
    R directory/list/room/{roomId}
    S publicRooms
    T user_directory/search
    U profile/{userId}/displayname
    V profile/{userId}/avatar_url
    W profile/{userId}
    X voip/turnServer
    Y rooms/{roomId}/typing/{userId}
    Z rooms/{roomId}/receipt/{receiptType}/{eventId}
    a rooms/{roomId}/read_markers
    b presence/{userId}/status
    c sendToDevice/{eventType}/{txnId}
    d devices
    e devices/{deviceId}
    f delete_devices
    g keys/upload
    h keys/query
    i keys/claim
    j keys/changes
    k pushers
    l pushers/set
    m notifications
    n pushrules/
    o search
    p user/{userId}/rooms/{roomId}/tags
    q user/{userId}/rooms/{roomId}/tags/{tag}
    r user/{userId}/account_data/{type}
    s user/{userId}/rooms/{roomId}/account_data/{type}
    t rooms/{roomId}/context/{eventId}
    u rooms/{roomId}/report/{eventId}
"""
TEMPLATE_OF = dict(line.split() for line in _PATHS.strip().splitlines())


def with_int_keys(value):
    if isinstance(value, dict):
        return {INT_OF.get(key, key): with_int_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_int_keys(item) for item in value]
    return value


def with_text_keys(value):
    """Back again; a key the table does not have is an error, and so is a float."""
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            if type(key) is int:
                if key not in KEY_OF:
                    raise ValueError(f"integer key {key} is not in the table")
                # where both forms of a key are there, the text counts
                if KEY_OF[key] in value:
                    continue
                key = KEY_OF[key]
            out[key] = with_text_keys(item)
        return out
    if isinstance(value, list):
        return [with_text_keys(item) for item in value]
    if isinstance(value, float):
        raise ValueError(f"a float: {value}")
    return value


def int_keys_in(value):
    if isinstance(value, dict):
        return any(type(key) is int for key in value) or any(map(int_keys_in, value.values()))
    return isinstance(value, list) and any(map(int_keys_in, value))


def encode(value, int_keys=True):
    return cbor2.dumps(with_int_keys(value) if int_keys else value)


def decode(data):
    return with_text_keys(cbor2.loads(data))


def coded(code, *params):
    """The path segments of a one-character code."""
    assert TEMPLATE_OF[code].count("{") == len(params), (code, params)
    return [code, *params]


def full(code, *params, version="r0"):
    """The same path in full."""
    rest, given = [], iter(params)
    for part in TEMPLATE_OF[code].split("/"):
        rest.append(next(given) if part.startswith("{") else part)
    return ["_matrix", "client", *([] if code == "0" else [version]), *rest]
