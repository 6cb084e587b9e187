// SPDX-License-Identifier: Apache-2.0
/*
 * Hears of the moves (mremap(2)) that a userfaultfd reports, for as long as it is told to.
 *
 * A process that moves memory waits in the kernel until its event has been read.  So this runs in a
 * thread of its own without the interpreter's lock, takes no lock, and waits for nothing but events
 * and its end.  What it hears it leaves in a ring, for one reader: see listener.py.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#define MESSAGES 16

struct livemig_move {
	__u64 from;
	__u64 to;
	__u64 length;
};

struct livemig_ring {
	_Atomic __u64 turn;  /* odd while a message may be out of the kernel and not yet in here */
	_Atomic __u64 heard; /* moves that were put in since the beginning */
	_Atomic __u64 taken; /* of these, by the reader */
	_Atomic __u64 lost;  /* moves that found no room since the beginning */
	__u64 room;
	struct livemig_move move[];
};

static void put(struct livemig_ring *ring, const struct uffd_msg *message)
{
	__u64 heard = atomic_load(&ring->heard);
	struct livemig_move *move = &ring->move[heard % ring->room];

	if (message->event != UFFD_EVENT_REMAP)
		return;
	if (heard - atomic_load(&ring->taken) == ring->room) {
		atomic_fetch_add(&ring->lost, 1);
		return;
	}
	move->from = message->arg.remap.from;
	move->to = message->arg.remap.to;
	move->length = message->arg.remap.len;
	atomic_store(&ring->heard, heard + 1);
}

/* Takes what there is to be read. */
static void hear(int userfault, struct livemig_ring *ring)
{
	struct uffd_msg message[MESSAGES];
	ssize_t size;

	do {
		atomic_fetch_add(&ring->turn, 1);
		size = read(userfault, message, sizeof(message));
		for (ssize_t i = 0; i < size / (ssize_t)sizeof(*message); i++)
			put(ring, &message[i]);
		atomic_fetch_add(&ring->turn, 1);
	} while (size > 0);
}

/* Returns once ``end`` can be read. */
void livemig_listen(int userfault, int end, struct livemig_ring *ring)
{
	struct pollfd poller[] = { { userfault, POLLIN, 0 }, { end, POLLIN, 0 } };

	while (!poller[1].revents)
		if (poll(poller, 2, -1) > 0 && poller[0].revents)
			hear(userfault, ring);
}
