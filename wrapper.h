/*
 * The one list of C headers that nfct-sys binds.
 *
 * <stddef.h> comes first because the library's headers use size_t without
 * including it themselves on every release.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_tcp.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_udp.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_icmp.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_ipv4.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_ipv6.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_dccp.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack_sctp.h>
