/*
 * A dump read by the C library's callback, with the attributes that nfct's
 * Flow has: what row 12 is held against. Prints the entries, the seconds from
 * opening the handle to the end of the dump, and a sum of all that was read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/socket.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>

struct tuple {
	unsigned char src[16], dst[16];
	uint16_t sport, dport, zone;
	uint8_t family, protocol;
};

struct flow {
	struct tuple original, reply;
	uint32_t id, status, mark, timeout;
	uint64_t start, stop;
};

struct sum {
	unsigned long entries;
	uint64_t all;
};

static void address(const struct nf_conntrack *ct, enum nf_conntrack_attr attribute, size_t size,
		    unsigned char *into)
{
	const void *value = nfct_get_attr(ct, attribute);

	if (value)
		memcpy(into, value, size);
}

static int read_entry(enum nf_conntrack_msg_type type, struct nf_conntrack *ct, void *data)
{
	struct sum *sum = data;
	struct flow flow = { 0 };
	uint16_t zone = nfct_get_attr_u16(ct, ATTR_ZONE);

	flow.original.family = nfct_get_attr_u8(ct, ATTR_ORIG_L3PROTO);
	flow.reply.family = nfct_get_attr_u8(ct, ATTR_REPL_L3PROTO);
	if (flow.original.family == AF_INET) {
		address(ct, ATTR_ORIG_IPV4_SRC, 4, flow.original.src);
		address(ct, ATTR_ORIG_IPV4_DST, 4, flow.original.dst);
		address(ct, ATTR_REPL_IPV4_SRC, 4, flow.reply.src);
		address(ct, ATTR_REPL_IPV4_DST, 4, flow.reply.dst);
	} else {
		address(ct, ATTR_ORIG_IPV6_SRC, 16, flow.original.src);
		address(ct, ATTR_ORIG_IPV6_DST, 16, flow.original.dst);
		address(ct, ATTR_REPL_IPV6_SRC, 16, flow.reply.src);
		address(ct, ATTR_REPL_IPV6_DST, 16, flow.reply.dst);
	}
	flow.original.protocol = nfct_get_attr_u8(ct, ATTR_ORIG_L4PROTO);
	flow.reply.protocol = nfct_get_attr_u8(ct, ATTR_REPL_L4PROTO);
	flow.original.sport = ntohs(nfct_get_attr_u16(ct, ATTR_ORIG_PORT_SRC));
	flow.original.dport = ntohs(nfct_get_attr_u16(ct, ATTR_ORIG_PORT_DST));
	flow.reply.sport = ntohs(nfct_get_attr_u16(ct, ATTR_REPL_PORT_SRC));
	flow.reply.dport = ntohs(nfct_get_attr_u16(ct, ATTR_REPL_PORT_DST));
	flow.original.zone = zone ? zone : nfct_get_attr_u16(ct, ATTR_ORIG_ZONE);
	flow.reply.zone = zone ? zone : nfct_get_attr_u16(ct, ATTR_REPL_ZONE);
	flow.id = nfct_get_attr_u32(ct, ATTR_ID);
	flow.status = nfct_get_attr_u32(ct, ATTR_STATUS);
	flow.mark = nfct_get_attr_u32(ct, ATTR_MARK);
	flow.timeout = nfct_get_attr_u32(ct, ATTR_TIMEOUT);
	flow.start = nfct_get_attr_u64(ct, ATTR_TIMESTAMP_START);
	flow.stop = nfct_get_attr_u64(ct, ATTR_TIMESTAMP_STOP);

	sum->entries++;
	sum->all += flow.id + flow.status + flow.mark;
	sum->all += flow.start + flow.stop;
	sum->all += flow.original.sport + flow.reply.dport + flow.original.zone + flow.reply.zone;
	sum->all += flow.original.src[3] + flow.reply.dst[3];
	return NFCT_CB_CONTINUE;
}

int main(void)
{
	struct timespec begin, end;
	struct sum sum = { 0 };
	uint32_t family = AF_UNSPEC;
	struct nfct_handle *handle;
	char line[128];
	FILE *status;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	handle = nfct_open(CONNTRACK, 0);
	if (!handle) {
		perror("nfct_open");
		return EXIT_FAILURE;
	}
	nfct_callback_register(handle, NFCT_T_ALL, read_entry, &sum);
	if (nfct_query(handle, NFCT_Q_DUMP, &family) < 0) {
		perror("nfct_query");
		return EXIT_FAILURE;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%lu %.6f %llu", sum.entries,
	       (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9,
	       (unsigned long long)sum.all);
	status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, "VmHWM:", 6))
			printf(" %ld\n", strtol(line + 6, NULL, 10));
	return EXIT_SUCCESS;
}
