/*
 * How a bucket gets its one owner: the protocol of internal/alloc and of the key cache of internal/trans, and nothing else of them.
 * README.md says what of the code each part stands for, and what was left out.
 *
 * As it stands all protections are on. Each of these switches one off; the names are those of the faults in internal/alloc:
 *
 *	NO_RULE              a scan locks no slot of the key cache that is empty (trans, the rule; I6)
 *	NO_RECHECK           the early allocator claims what its scan found without looking again (I1)
 *	NO_SLOT_LOCK         a claim looks again, but does not keep the slot locked (I1)
 *	NO_OPEN_RECHECK      a claim does not ask under the freelist lock whether the bucket is open (I1)
 *	EARLY_RELEASE        a bucket is closed before the commit that makes it used (I2)
 *	DISCARD_TESTS_FIRST  a discard asks whether the bucket is open before it locks the alloc key (I4)
 *	NO_JOURNAL_WAIT      nobody waits until the journal entry that emptied a bucket is on disk (I5)
 *	NO_WRITE_THROUGH     a new alloc key is put into the key cache alone (I7)
 *	LEAVES_HOLES         a scan holds the leaf only where that has a key, as one does that tells of a hole from the leaf behind it
 *	STALE_FILL           a claim fills the slot with what the leaf said before it locked the slot (I7)
 *
 * FILL_LOCKS_LEAF is a protection more: a slot is filled only with the leaf locked exclusively, as upstream does since December 2024.
 * ANY_CANDIDATE lets scans come up with any bucket whatever. TASKS, BUCKETS and DISCARDERS are how many there are.
 */

#ifndef TASKS
#define TASKS 2
#endif
#ifndef BUCKETS
#define BUCKETS 1
#endif
#ifndef DISCARDERS
#define DISCARDERS 1
#endif

/* What an alloc key says of its bucket. hole: there is no key, so the bucket is free. */
mtype = { hole, free, used, need_discard };

/* What of a bucket a power cut does not bring back. */
#define ON_DISK 0	/* that it was emptied is on disk, or it never held anything */
#define IN_OPEN 1	/* the journal entry that emptied it still takes commits */
#define IN_CLOSED 2	/* that entry is being written */

typedef Bucket {
	mtype leaf;	/* the key in the leaf of the alloc btree */

	/* The slot of the key cache. Its lock exists whether it is filled or not. */
	bool filled;
	mtype slot;	/* the key, if filled */
	bool dirty;	/* and not yet written to the leaf */
	byte shared;	/* how many hold the lock shared; exclusively it is only ever held within one step */
	bool intent;	/* somebody holds it for intent */

	bool open;	/* the table of open buckets, which the freelist lock protects */
	bool discarding;	/* somebody is discarding it */
	byte emptied;	/* where the journal entry that emptied it is: what the key and the table of waiting buckets say */
	bool fresh;	/* the journal entry that filled it still takes commits */

	/* What is true, for assertions only. */
	byte owners;	/* how many tasks are writing to it */
	bool live;	/* there are keys with pointers to it */
	bool closing;	/* there were when the journal entry that is being written was closed */
	bool restored;	/* a power cut now would bring some back */
}

Bucket bk[BUCKETS];
byte leafShared;	/* how many hold the leaf's lock shared; exclusively it is only ever held within one step */

/* What the key of a bucket says: the slot if it is filled, else the leaf. */
#define KEY(b) (bk[b].filled -> bk[b].slot : bk[b].leaf)
#define IS_FREE(k) (k == free || k == hole)

#ifdef NO_JOURNAL_WAIT
#define WAITS(b) false
#else
#define WAITS(b) (bk[b].emptied != ON_DISK)
#endif

/* Picks a bucket for which something holds, and waits until there is one. */
#if BUCKETS == 1
#define PICK(holds) if :: holds(0) -> b = 0 fi
#else
#define PICK(holds) if :: holds(0) -> b = 0 :: holds(1) -> b = 1 fi
#endif

/* The slot of a key that the leaf has is filled from there by whoever locks it. */
#ifdef FILL_LOCKS_LEAF
#define CAN_FILL(b) (bk[b].filled || bk[b].leaf == hole || leafShared == 0)
#else
#define CAN_FILL(b) true
#endif

inline fill(b) {
	d_step {
		if
		:: !bk[b].filled && bk[b].leaf != hole -> bk[b].filled = true; bk[b].slot = bk[b].leaf
		:: else
		fi
	}
}

inline lockShared(b) { CAN_FILL(b); bk[b].shared++; fill(b) }
inline unlockShared(b) { bk[b].shared-- }
inline lockIntent(b) { !bk[b].intent && CAN_FILL(b); bk[b].intent = true; fill(b) }

#ifdef NO_WRITE_THROUGH
#define THROUGH(b) false
#else
#define THROUGH(b) (bk[b].leaf == hole)
#endif

/* Commits a key whose slot is locked for intent. It needs the slot's lock exclusively, and the leaf's too for a key that is new. */
inline commit(b, key) {
	bk[b].shared == 0 && (!THROUGH(b) || leafShared == 0);
	d_step {
		if
		:: THROUGH(b) -> bk[b].leaf = key
		:: else -> bk[b].filled = true; bk[b].slot = key; bk[b].dirty = true
		fi;
		bk[b].intent = false
	}
}

/* Said in the step of a commit that puts data into an empty bucket, or removes what was in one. */
inline dataCame(b) { bk[b].fresh = true; bk[b].live = true }
inline dataWent(b) {
	d_step {
		if
		:: bk[b].fresh	/* one journal entry filled and emptied it: there is nothing new to wait for */
		:: else -> bk[b].emptied = IN_OPEN
		fi;
		bk[b].fresh = false;
		bk[b].live = false
	}
}

/* Enters a bucket in the table of open buckets, under the freelist lock. This is where it gets an owner. */
inline openLocked(b) {
	if
#ifndef NO_OPEN_RECHECK
	:: bk[b].open -> got = false
	:: else ->
#else
	:: true ->
#endif
		bk[b].open = true;
		bk[b].owners++;
		got = true;
		printf("task %d opens bucket %d\n", _pid, b);
		assert(bk[b].owners == 1);	/* nobody else is writing to it */
		assert(!bk[b].live)	/* nobody's data are in it */
	fi
}

inline close(b) {
	bk[b].open = false;
	printf("task %d closes bucket %d\n", _pid, b)
}

/* What a scan of the alloc btree sees at the position of a bucket: what the leaf has, or the slot if that has something newer. */
#define SCANNED(b) (bk[b].leaf == hole -> hole : KEY(b))
#ifdef ANY_CANDIDATE
#define FOUND(b) true
#else
#define FOUND(b) IS_FREE(SCANNED(b))
#endif

/* What it locks there, until it moves on: the slot of a key that the leaf has. Without the rule, only if the slot is filled. */
#ifdef NO_RULE
#define LOCKS(b) (bk[b].leaf != hole && bk[b].filled)
#else
#define LOCKS(b) (bk[b].leaf != hole)
#endif

/* The leaf itself it holds until then, which is all that keeps new keys from holes. */
#ifdef LEAVES_HOLES
#define HOLDS_LEAF(b) (bk[b].leaf != hole)
#else
#define HOLDS_LEAF(b) true
#endif

/* Looks for a free bucket and claims it: got tells whether b is the task's now. */
inline allocate() {
	atomic {	/* the scan */
		PICK(FOUND);
#ifdef NO_RECHECK
		leaf = HOLDS_LEAF(b);
		leafShared = leafShared + leaf;
		lock = LOCKS(b);
		bk[b].shared = bk[b].shared + lock;
		printf("task %d scans: bucket %d is free, slots locked: %d\n", _pid, b, lock)
#else
		printf("task %d scans: bucket %d is free\n", _pid, b)
#endif
	}
#ifndef NO_RECHECK
#ifdef STALE_FILL
	stale = bk[b].leaf;
#endif
	atomic {	/* the claim looks again */
#ifdef STALE_FILL
		if
		:: !bk[b].filled && stale != hole -> bk[b].filled = true; bk[b].slot = stale
		:: else
		fi;
		stale = 0;
#endif
#ifndef NO_SLOT_LOCK
		lockShared(b);
		lock = true;
#endif
		if
		:: IS_FREE(KEY(b)) -> printf("task %d looks again: bucket %d is free\n", _pid, b)
		:: else -> goto unlock
		fi
	}
#endif
	if
	:: bk[b].open || WAITS(b) -> goto unlock
	:: else
	fi;
	atomic {
		openLocked(b);
unlock:		bk[b].shared = bk[b].shared - lock;
		lock = false;
#ifdef NO_RECHECK
		leafShared = leafShared - leaf;
		leaf = false;
#endif
	}
}

#define REMOVABLE(b) (bk[b].live && !bk[b].intent)

proctype task() {
	byte b;
	bool got, lock, later;
#ifdef NO_RECHECK
	bool leaf;
#endif
#ifdef STALE_FILL
	mtype stale;
#endif

	do
	:: allocate();
		if
		:: !got
		:: got ->
			do
			:: atomic {	/* writes data to where there are none yet in the bucket */
					!bk[b].live;
					printf("task %d writes to bucket %d\n", _pid, b);
					assert(later || !bk[b].restored);	/* no data are overwritten that a power cut brings back */
					later = true
#ifdef EARLY_RELEASE
					; close(b)
#endif
				}
				atomic { lockIntent(b) }
				atomic { commit(b, used); dataCame(b); printf("task %d commits: bucket %d is used\n", _pid, b) }
#ifdef EARLY_RELEASE
				break
#endif
			:: break
			od;
			atomic {
#ifndef EARLY_RELEASE
				close(b);
#endif
				bk[b].owners--;
				got = false; later = false
			}
		fi;
		b = 0
	:: atomic { PICK(REMOVABLE); lockIntent(b) }	/* overwrites or removes what is in some bucket, open or not */
		atomic {
			commit(b, need_discard);
			dataWent(b);
			printf("task %d commits: what was in bucket %d is gone\n", _pid, b);
			b = 0
		}
	od
}

#define DISCARDABLE(b) (KEY(b) == need_discard)

proctype discarder() {
	byte b;
	bool open;

end:	do
	:: atomic { PICK(DISCARDABLE); printf("discard %d finds bucket %d\n", _pid, b) }
#ifdef DISCARD_TESTS_FIRST
		atomic { open = bk[b].open; printf("discard %d asks: bucket %d is open: %d\n", _pid, b, open) }
#endif
		atomic {
			lockShared(b);
#ifndef DISCARD_TESTS_FIRST
			open = bk[b].open;
#endif
			unlockShared(b);
			if
			:: open || KEY(b) != need_discard || WAITS(b) || bk[b].discarding -> goto next
			:: else -> bk[b].discarding = true
			fi
		}
		atomic {
			printf("discard %d wipes bucket %d\n", _pid, b);
			assert(bk[b].owners == 0);	/* nobody is writing to it */
			assert(!bk[b].live && !bk[b].restored)	/* nobody's data are in it, nor would a power cut bring some back */
		}
		atomic {
			lockIntent(b);
			assert(KEY(b) == need_discard && !bk[b].open)
		}
		atomic {
			commit(b, free);
			printf("discard %d commits: bucket %d is free\n", _pid, b);
			bk[b].discarding = false;
next:			b = 0; open = false
		}
	od
}

#define FLUSHABLE(b) (bk[b].dirty && !bk[b].intent && leafShared == 0)
#define UNUSED(b) (bk[b].filled && !bk[b].dirty && !bk[b].intent && bk[b].shared == 0)

/* The key cache writes dirty slots to the leaf, and empties those that nobody needs. */
proctype keycache() {
	byte b;

end:	do
	:: atomic {
			PICK(FLUSHABLE);
			bk[b].leaf = bk[b].slot; bk[b].dirty = false;
			printf("key cache: the slot of bucket %d is written to the leaf\n", b);
			b = 0
		}
	:: atomic {
			PICK(UNUSED);
			bk[b].filled = false; bk[b].slot = 0;
			printf("key cache: the slot of bucket %d is emptied\n", b);
			b = 0
		}
	od
}

/* The journal closes the entry that takes commits, and then has it on disk. */
proctype journal() {
	byte b;

	do
	:: d_step {
			b = 0;
			do
			:: b < BUCKETS ->
				bk[b].closing = bk[b].live;
				bk[b].fresh = false;
				if
				:: bk[b].emptied == IN_OPEN -> bk[b].emptied = IN_CLOSED
				:: else
				fi;
				b++
			:: else -> break
			od;
			b = 0;
			printf("journal: the entry is closed\n")
		}
		d_step {
			do
			:: b < BUCKETS ->
				bk[b].restored = bk[b].closing;
				bk[b].closing = false;
				if
				:: bk[b].emptied == IN_CLOSED -> bk[b].emptied = ON_DISK
				:: else
				fi;
				b++
			:: else -> break
			od;
			b = 0;
			printf("journal: it is on disk\n")
		}
	od
}

init {
	byte i;

	atomic {
		for (i : 0 .. BUCKETS - 1) {
			if
			:: bk[i].leaf = hole
			:: bk[i].leaf = free
			fi
		}
		for (i : 1 .. TASKS) { run task() }
		for (i : 1 .. DISCARDERS) { run discarder() }
		run keycache();
		run journal();
		i = 0
	}
}
