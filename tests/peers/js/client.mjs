// matrix-js-sdk, the client of Element Web, against a homeserver over HTTPS.
//
//   NODE_EXTRA_CA_CERTS=ca.pem node client.mjs --url https://… --user ana --password … [--timeout 60]
//
// Logs in, creates a room, sends, waits until its own /sync shows the message, pages back, redacts
// and logs out. One JSON line on stdout; on failure a reason on stderr and exit code 1.
import { parseArgs } from "node:util";
import * as sdk from "matrix-js-sdk";

// the one thing of Node 22 that the SDK needs and Node 20 lacks
Promise.withResolvers ??= function () {
    const parts = {};
    parts.promise = new this((resolve, reject) => Object.assign(parts, { resolve, reject }));
    return parts;
};

const { values: args } = parseArgs({
    options: {
        url: { type: "string" },
        user: { type: "string" },
        password: { type: "string" },
        "room-version": { type: "string", default: "12" },
        timeout: { type: "string", default: "60" },
    },
});

const fail = (reason) => {
    console.error(`client.mjs: ${reason}`);
    process.exit(1);
};
const check = (holds, what) => holds || fail(what);
setTimeout(() => fail(`not done after ${args.timeout} s`), Number(args.timeout) * 1000).unref();

// the SDK logs what it does, and partly past the logger it is given
for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};

const until = (emitter, event, holds) =>
    new Promise((found) => {
        const on = (...values) => {
            const value = holds(...values);
            if (value) {
                emitter.off(event, on);
                found(value);
            }
        };
        emitter.on(event, on);
    });

try {
    const login = await sdk.createClient({ baseUrl: args.url }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: args.user },
        password: args.password,
    });
    const client = sdk.createClient({
        baseUrl: args.url,
        accessToken: login.access_token,
        userId: login.user_id,
        deviceId: login.device_id,
    });
    check((await client.whoami()).user_id === login.user_id, "whoami names somebody else");

    const synced = until(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 20 });
    await synced;

    const { room_id: roomId } = await client.createRoom({
        name: "js",
        preset: "private_chat",
        room_version: args["room-version"],
    });
    // the SDK orders its own messages only in a room that /sync has told it of
    if (!client.getRoom(roomId)) {
        await until(client, sdk.ClientEvent.Room, (room) => room.roomId === roomId);
    }
    // a message of one's own is in the timeline at once, with a status until /sync has brought it
    const bodies = () =>
        (client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [])
            .filter((event) => event.getType() === "m.room.message" && !event.status)
            .map((event) => event.getContent().body);
    const three = () => bodies().length >= 3;
    const seen = Promise.race([
        until(client, sdk.RoomEvent.Timeline, three),
        until(client, sdk.RoomEvent.LocalEchoUpdated, three),
    ]);
    let last;
    for (const body of ["one", "two", "three"]) {
        last = (await client.sendTextMessage(roomId, body)).event_id;
    }
    await seen;
    check(bodies().join() === "one,two,three", `sync shows ${bodies()}`);

    const room = client.getRoom(roomId);
    check(room?.name === "js", `the room is called ${room?.name}`);
    check(room.getMyMembership() === "join", `the creator's membership is ${room.getMyMembership()}`);

    const page = await client.createMessagesRequest(roomId, null, 50, sdk.Direction.Backward);
    const back = page.chunk.filter((event) => event.type === "m.room.message");
    check(back.map((event) => event.content.body).join() === "three,two,one", "paging back differs");
    check(page.chunk.some((event) => event.type === "m.room.create"), "paging back ends before the create event");

    await client.redactEvent(roomId, last);
    const redacted = await client.fetchRoomEvent(roomId, last);
    check(!("body" in redacted.content), "a redacted message kept its body");

    client.stopClient();
    await client.logout();
    const done = { ok: true, peer: "matrix-js-sdk", room_id: roomId, paged_back: page.chunk.length };
    process.stdout.write(`${JSON.stringify(done)}\n`, () => process.exit(0));
} catch (error) {
    fail(error?.stack ?? error);
}
