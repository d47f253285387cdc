/* Sends small UDP packets as fast as the machine lets it, through AF_PACKET, to be routed by who has DESTINATION_MAC.
 *
 *   cc -O2 -o bin/traffic traffic.c
 *   bin/traffic INTERFACE DESTINATION_MAC SOURCE DESTINATION SOURCE_PORT SECONDS
 *
 * 256 sources beside SOURCE, each from a port of its own at SOURCE_PORT and above, or all from that one where it is below
 * 1024. Prints how many packets went out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 256

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static unsigned sum16(const unsigned char *at, int length, unsigned sum) {
    for (int i = 0; i + 1 < length; i += 2) sum += (unsigned)at[i] << 8 | at[i + 1];
    if (length & 1) sum += (unsigned)at[length - 1] << 8;
    return sum;
}

static void put_sum(unsigned char *at, unsigned sum) {
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    sum = ~sum & 0xffff;
    at[0] = (unsigned char)(sum >> 8), at[1] = (unsigned char)sum;
}

static int packet(unsigned char *b, const char *source, const char *destination, int port, int number) {
    int six = strchr(destination, ':') != NULL, head = six ? 40 : 20, body = 8 + 18;
    memset(b, 0, (size_t)(head + body));
    unsigned char *from = b + (six ? 8 : 12), *to = b + (six ? 24 : 16), *udp = b + head;
    int size = six ? 16 : 4;
    if (inet_pton(six ? AF_INET6 : AF_INET, source, from) != 1) die(source);
    if (inet_pton(six ? AF_INET6 : AF_INET, destination, to) != 1) die(destination);
    from[size - 1] = (unsigned char)number;
    if (six) {
        b[0] = 0x60, b[5] = (unsigned char)body, b[6] = 17, b[7] = 64;
    } else {
        b[0] = 0x45, b[3] = (unsigned char)(head + body), b[8] = 64, b[9] = 17;
        put_sum(b + 10, sum16(b, 20, 0));
    }
    int from_port = port < 1024 ? port : port + number;
    udp[0] = (unsigned char)(from_port >> 8), udp[1] = (unsigned char)from_port;
    udp[2] = 0x13, udp[3] = 0x88, udp[5] = (unsigned char)body; /* to port 5000 */
    put_sum(udp + 6, sum16(udp, body, sum16(from, 2 * size, 17 + (unsigned)body)));
    return head + body;
}

int main(int count, char **words) {
    if (count != 7) return fprintf(stderr, "see the head of traffic.c\n"), 2;
    static unsigned char data[BATCH][128];
    static struct mmsghdr messages[BATCH];
    static struct iovec pieces[BATCH];
    const char *interface = words[1], *mac = words[2], *source = words[3], *destination = words[4];
    int port = atoi(words[5]), one = 1;
    double seconds = atof(words[6]);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_halen = 6};
    to.sll_protocol = htons(strchr(destination, ':') ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
    to.sll_ifindex = (int)if_nametoindex(interface);
    unsigned m[6];
    if (sscanf(mac, "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) die(mac);
    for (int i = 0; i < 6; i++) to.sll_addr[i] = (unsigned char)m[i];
    int s = socket(AF_PACKET, SOCK_DGRAM, 0);
    if (s < 0) die("socket");
    setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);
    for (int i = 0; i < BATCH; i++) {
        pieces[i].iov_base = data[i], pieces[i].iov_len = (size_t)packet(data[i], source, destination, port, i);
        messages[i].msg_hdr.msg_name = &to, messages[i].msg_hdr.msg_namelen = sizeof to;
        messages[i].msg_hdr.msg_iov = &pieces[i], messages[i].msg_hdr.msg_iovlen = 1;
    }
    long sent = 0;
    for (double until = now() + seconds; now() < until;) {
        int done = sendmmsg(s, messages, BATCH, 0);
        if (done > 0) sent += done;
    }
    printf("%ld\n", sent);
    return 0;
}
