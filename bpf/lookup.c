// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// One program per pod, of type sk_lookup, attached to the pod's network namespace. The kernel runs
// it once for every new TCP connection that arrives there, before it looks for a listener: never
// per packet, and never for a connection that exists.
//
// It (1) notes when, and how often, somebody connected to a local port, (2) hands connections to a
// port that is being steered to the activator's listener, and (3) tells connections that a prober
// may have made, the kubelet above all: they come from one of the node's own addresses, and in the
// context of a task with a prober's name, since the first packet of a local connection is received
// where it is sent, within connect(2). That is a hint and no more: what arrives from elsewhere is
// received in the context of whatever task happens to run. So such a connection is not noted as
// somebody's, but written down in `flows`, and handed over where `inspect` says so, for the
// activator to find out what it is. The other way round a busy kernel may put off receiving a prober's
// packet, and do it in anybody's context: what comes from the node's own addresses like that is noted as
// somebody's, and written down in `unsure`, where the activator finds it if it has to know better; or is handed
// over, too, while it is not to be answered before it is known whose it is.
//
// Whatever goes wrong, the lookup goes on as if the program were not there: no connection is ever
// dropped here.
//
// compile.py compiles it with bcc, which brings the types and the map macros; zeropod.kernel.lookup
// loads it and reads and writes the maps.

#include <linux/socket.h>
#include <uapi/linux/in.h>

struct activity {
	u64 last_ns;      // CLOCK_MONOTONIC
	u64 connections;
	u64 own_last_ns;  // the same for connections from within the pod
	u64 own_connections;
	u64 unsure;       // further connections, those that were written down in `unsure`
};

// IPv6, or IPv4 as ::ffff:a.b.c.d; as in the packet.
struct address {
	u32 words[4];
};

// A connection by its other end. The pod's own address is left out: it hardly ever has two.
struct flow {
	struct address remote;
	u16 remote_port;  // as in the packet
	u16 port;
};

struct task {
	char name[16];
};

// Port to activity. LRU: a port scan adds a key per port and must not fill the map for good.
BPF_TABLE("lru_hash", u16, struct activity, last_seen, 256);

// Port to the slot of the activator's listeners in `activators`: all connections, or what may be a prober's; with
// NAMED, only those in the context of a task with a prober's own name; with NODES, all from the node's own addresses.
BPF_HASH(steer, u16, u32, 128);
BPF_HASH(inspect, u16, u32, 128);
#define NAMED 0x10000
#define NODES 0x20000
#define SLOT 0xffff

// 2 * slot holds the listener for IPv4, 2 * slot + 1 that for IPv6. (BPF_SOCKMAP has no lookup().)
BPF_TABLE("sockmap", u32, u32, activators, 512);

// Probers connect from one of these addresses; without any there are no probes. The values mean nothing.
BPF_HASH(node_addresses, struct address, u8, 512);

// What tasks of a name do.
BPF_HASH(tasks, struct task, u8, 32);
#define PROBES 1
#define FORWARDS 2  // into the pod, from within it, for somebody outside: kubectl port-forward
#define RECEIVES 3  // what others have sent, probers perhaps: ksoftirqd

// Connections that may be a prober's: when they came (CLOCK_MONOTONIC, ns). Or a word about one from within
// the pod, from the activator that makes it (0, it is somebody's like one from outside; 1, it is a probe's)
// or from here (2, it is forwarded).
#define SOMEBODYS 0
#define FORWARDED 2
BPF_TABLE("lru_hash", struct flow, u64, flows, 1024);

struct arrival {
	u64 ns;  // CLOCK_MONOTONIC
	struct address local;
};

// Connections from the node's own addresses that count.
BPF_TABLE("lru_hash", struct flow, struct arrival, unsure, 256);

static inline struct activity *note(u16 port, int own, u64 connections)
{
	u64 now = bpf_ktime_get_ns();
	struct activity *seen = last_seen.lookup(&port);

	if (!seen) {
		struct activity none = {};
		last_seen.update(&port, &none);
		seen = last_seen.lookup(&port);
		if (!seen)
			return seen;
	}
	if (own) {
		seen->own_last_ns = now;
		lock_xadd(&seen->own_connections, connections);
	} else {
		seen->last_ns = now;
		lock_xadd(&seen->connections, connections);
	}
	return seen;
}

// The name up to a slash: per-processor threads such as ksoftirqd/0 are one.
static inline void current_name(struct task *task)
{
	int end = 0;

	bpf_get_current_comm(task->name, sizeof(task->name));
#pragma unroll
	for (int i = 0; i < 16; i++) {
		end |= task->name[i] == '/' || task->name[i] == 0;
		if (end)
			task->name[i] = 0;
	}
}

int lookup(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;

	u16 port = ctx->local_port;
	struct flow flow = { .remote_port = ctx->remote_port, .port = port };
	struct arrival arrival = {};
	int own;

	if (ctx->family == AF_INET6) {
		u32 first = ctx->remote_ip6[0], second = ctx->remote_ip6[1];
		u32 third = ctx->remote_ip6[2], last = ctx->remote_ip6[3];

		arrival.local.words[0] = ctx->local_ip6[0];
		arrival.local.words[1] = ctx->local_ip6[1];
		arrival.local.words[2] = ctx->local_ip6[2];
		arrival.local.words[3] = ctx->local_ip6[3];
		flow.remote.words[0] = first;
		flow.remote.words[1] = second;
		flow.remote.words[2] = third;
		flow.remote.words[3] = last;
		own = first == arrival.local.words[0] && second == arrival.local.words[1] &&
		      third == arrival.local.words[2] && last == arrival.local.words[3];
	} else {
		u32 remote = ctx->remote_ip4;

		flow.remote.words[2] = bpf_htonl(0xffff);
		flow.remote.words[3] = remote;
		arrival.local.words[2] = bpf_htonl(0xffff);
		arrival.local.words[3] = ctx->local_ip4;
		own = remote == arrival.local.words[3] || (remote & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	}

	u32 *slot = steer.lookup(&port), *inspected = inspect.lookup(&port);
	struct task task = {};
	current_name(&task);
	u8 *role = tasks.lookup(&task);

	if (own) {
		u64 *word = flows.lookup(&flow), forwarded = FORWARDED;

		if (role && *role == FORWARDS) {
			flows.update(&flow, &forwarded);
			note(port, 0, 1);
		} else if (!word || *word == FORWARDED) {
			flows.delete(&flow);  // an earlier connection's
			note(port, 1, 1);
		} else if (*word == SOMEBODYS) {
			note(port, 0, 1);
		}
	} else if (!node_addresses.lookup(&flow.remote)) {
		flows.delete(&flow);  // an earlier connection's
		note(port, 0, 1);
	} else if ((role && *role != FORWARDS) || (inspected && *inspected & NODES)) {
		u64 now = bpf_ktime_get_ns();

		flows.update(&flow, &now);
		if (!slot && inspected && (!(*inspected & NAMED) || (role && *role == PROBES)))
			slot = inspected;
	} else {
		flows.delete(&flow);
		// What is left of a connection when its socket is gone, a FIN say, is looked up, too, and so is what
		// sock_diag is asked for: it is no other one.
		u64 connections = !unsure.lookup(&flow);
		struct activity *seen = note(port, 0, 0);

		if (seen) {
			arrival.ns = seen->last_ns;
			unsure.update(&flow, &arrival);
			lock_xadd(&seen->unsure, connections);
		}
	}
	if (!slot)
		return SK_PASS;

	u32 index = 2 * (*slot & SLOT) + (ctx->family == AF_INET6);
	struct bpf_sock *listener = (struct bpf_sock *)activators.lookup(&index);
	if (!listener)
		return SK_PASS;

	// Fails where another program has chosen a socket already: its choice stands.
	bpf_sk_assign(ctx, (void *)listener, 0);
	bpf_sk_release((void *)listener);
	return SK_PASS;
}
