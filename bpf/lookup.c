// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// One program per pod, of type sk_lookup, attached to the pod's network namespace. The kernel runs
// it once for every new TCP connection that arrives there, before it looks for a listener: never
// per packet, and never for an established connection.
//
// It (1) records when, and how often, clients connected to a local port, (2) hands connections to a
// steered port to the activator's listener, and (3) recognises connections that may be probes, the
// kubelet's above all: they come from one of the node's own addresses, and are received in the
// context of a task with a prober's name, because the kernel receives the first packet of a local
// connection where it is sent, within connect(2).
//
// The task's name is only a hint: packets from elsewhere are received in the context of whatever
// task happens to run. So such a connection is not counted as activity but recorded in `flows`, and
// handed to the activator where `inspect` says so, for the activator to find out what it is.
// Conversely, a busy kernel may defer receiving a prober's packet and do it in any task's context.
// A connection like that counts as activity; with NODES it is handed to the activator as well.
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
	u64 own_last_ns;  // of connections from within the pod; CLOCK_MONOTONIC
	u64 own_connections;
};

// IPv6, or IPv4 as ::ffff:a.b.c.d; in network byte order.
struct address {
	u32 words[4];
};

// A connection by its remote end. The pod's own address is left out: pods rarely have two.
struct flow {
	struct address remote;
	u16 remote_port;  // network byte order
	u16 port;
};

struct task {
	char name[16];
};

// Port to activity. LRU: a port scan adds a key per port and must not fill the map for good.
BPF_TABLE("lru_hash", u16, struct activity, last_seen, 256);

// Port to the slot of the activator's listeners in `activators`: `steer` for all connections, `inspect` for those that
// may be probes; with NAMED, only those received in the context of a prober's task; with NODES, all from the node's own
// addresses.
BPF_HASH(steer, u16, u32, 128);
BPF_HASH(inspect, u16, u32, 128);
#define NAMED 0x10000
#define NODES 0x20000
#define SLOT 0xffff

// 2 * slot holds the listener for IPv4, 2 * slot + 1 that for IPv6. (BPF_SOCKMAP has no lookup().)
BPF_TABLE("sockmap", u32, u32, activators, 512);

// Probers connect from one of these addresses; without any there are no probes. The values are unused.
BPF_HASH(node_addresses, struct address, u8, 512);

// What tasks with a name do.
BPF_HASH(tasks, struct task, u8, 32);
#define PROBES 1
#define FORWARDS 2  // connect from within the pod on behalf of a client outside: kubectl port-forward
#define RECEIVES 3  // receive packets that others, perhaps probers, have sent: ksoftirqd

// Connections that may be probes, by arrival time (CLOCK_MONOTONIC, ns). For a connection from within the pod, its
// origin instead: set by the activator that makes it (0, it counts like one from outside; 1, it is a probe), or by this
// program (2, it is forwarded).
#define CLIENTS 0
#define FORWARDED 2
BPF_TABLE("lru_hash", struct flow, u64, flows, 1024);

static inline void note(u16 port, int own)
{
	u64 now = bpf_ktime_get_ns();
	struct activity *seen = last_seen.lookup(&port);

	if (!seen) {
		struct activity none = {};
		last_seen.update(&port, &none);
		seen = last_seen.lookup(&port);
		if (!seen)
			return;
	}
	if (own) {
		seen->own_last_ns = now;
		lock_xadd(&seen->own_connections, 1);
	} else {
		seen->last_ns = now;
		lock_xadd(&seen->connections, 1);
	}
}

// The name up to a slash, so that per-CPU threads such as ksoftirqd/0 share one name.
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
	struct address local = {};
	int own;

	if (ctx->family == AF_INET6) {
		u32 first = ctx->remote_ip6[0], second = ctx->remote_ip6[1];
		u32 third = ctx->remote_ip6[2], last = ctx->remote_ip6[3];

		local.words[0] = ctx->local_ip6[0];
		local.words[1] = ctx->local_ip6[1];
		local.words[2] = ctx->local_ip6[2];
		local.words[3] = ctx->local_ip6[3];
		flow.remote.words[0] = first;
		flow.remote.words[1] = second;
		flow.remote.words[2] = third;
		flow.remote.words[3] = last;
		own = first == local.words[0] && second == local.words[1] &&
		      third == local.words[2] && last == local.words[3];
	} else {
		u32 remote = ctx->remote_ip4;

		flow.remote.words[2] = bpf_htonl(0xffff);
		flow.remote.words[3] = remote;
		local.words[2] = bpf_htonl(0xffff);
		local.words[3] = ctx->local_ip4;
		own = remote == local.words[3] || (remote & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	}

	u32 *slot = steer.lookup(&port), *inspected = inspect.lookup(&port);
	struct task task = {};
	current_name(&task);
	u8 *role = tasks.lookup(&task);

	if (own) {
		u64 *word = flows.lookup(&flow), forwarded = FORWARDED;

		if (role && *role == FORWARDS) {
			flows.update(&flow, &forwarded);
			note(port, 0);
		} else if (!word || *word == FORWARDED) {
			flows.delete(&flow);  // an earlier connection's
			note(port, 1);
		} else if (*word == CLIENTS) {
			note(port, 0);
		}
	} else if (node_addresses.lookup(&flow.remote) &&
		   ((role && *role != FORWARDS) || (inspected && *inspected & NODES))) {
		u64 now = bpf_ktime_get_ns();

		flows.update(&flow, &now);
		if (!slot && inspected && (!(*inspected & NAMED) || (role && *role == PROBES)))
			slot = inspected;
	} else {
		flows.delete(&flow);  // an earlier connection's
		note(port, 0);
	}
	if (!slot)
		return SK_PASS;

	u32 index = 2 * (*slot & SLOT) + (ctx->family == AF_INET6);
	struct bpf_sock *listener = (struct bpf_sock *)activators.lookup(&index);
	if (!listener)
		return SK_PASS;

	// Fails if another program has already chosen a socket; that choice stands.
	bpf_sk_assign(ctx, (void *)listener, 0);
	bpf_sk_release((void *)listener);
	return SK_PASS;
}
