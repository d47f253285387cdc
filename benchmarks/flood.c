/* Sends more than is good: spoofed ClientHellos, or valid requests without waiting for answers.
 *
 *   cc -O2 -o bin/flood flood.c -lgnutls
 *   bin/flood hellos ADDRESS PORT RATE SECONDS
 *   bin/flood get|put|beat ADDRESS PORT RATE SECONDS CERT KEY SESSIONS CUID PREFIX
 *
 * hellos come from all over 127.0.0.0/8, each with a random of its own and no cookie. get, put and beat open SESSIONS
 * DTLS sessions and send RATE requests a second over all of them, whatever comes back: GET of mid 1; PUT of mid 1, which
 * asks for PREFIX; or heartbeats. Prints one JSON object: what was sent and answered, codes, and latencies in milliseconds, from
 * when a request was due to be sent, so that a slow modest client is seen as what it is.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define REMEMBERED (1 << 20) /* requests whose answers are still known */
#define LAST_ANSWERS 1.0     /* seconds that answers are waited for in the end */

static struct sockaddr_in server;
static long sent, answered, codes[256], unsent;
static double *sent_at;
static float *latencies;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}


static unsigned long long chaos = 88172645463325252ULL;

static unsigned random_word(void) { /* xorshift: the same every time, and cheap */
    chaos ^= chaos << 13, chaos ^= chaos >> 7, chaos ^= chaos << 17;
    return (unsigned)(chaos >> 16);
}

/* -- hellos --------------------------------------------------------------------------------------------------- */

static int put16(unsigned char *at, int value) {
    at[0] = (unsigned char)(value >> 8), at[1] = (unsigned char)value;
    return 2;
}

static int hello(unsigned char *b) { /* as GnuTLS writes one, padded to 220 octets; the random follows at 27 */
    static const unsigned char suites[] = {0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0xac, 0x00, 0xff};
    static const unsigned char extensions[] = {0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0};
    int total = 220, body = total - 13 - 12, n = 13 + 12;
    memset(b, 0, (size_t)total);
    b[0] = 22, b[1] = 0xfe, b[2] = 0xff, put16(b + 11, total - 13);
    b[13] = 1, put16(b + 15, body), put16(b + 23, body);
    b[n++] = 0xfe, b[n++] = 0xfd;
    n += 32;             /* random */
    b[n++] = 0, b[n++] = 0; /* session id, cookie */
    n += put16(b + n, sizeof suites), memcpy(b + n, suites, sizeof suites), n += sizeof suites;
    b[n++] = 1, b[n++] = 0;
    n += put16(b + n, total - n - 2);
    memcpy(b + n, extensions, sizeof extensions), n += sizeof extensions;
    n += put16(b + n, 21), put16(b + n, total - n - 2); /* padding */
    return total;
}

static void flood_hellos(double rate, double seconds) {
    static unsigned char data[BATCH][256];
    static char control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    int s = socket(AF_INET, SOCK_DGRAM, 0), size = 1 << 20;
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        pieces[i].iov_base = data[i], pieces[i].iov_len = (size_t)hello(data[i]);
        struct msghdr *m = &messages[i].msg_hdr;
        m->msg_name = &server, m->msg_namelen = sizeof server, m->msg_iov = &pieces[i], m->msg_iovlen = 1;
        m->msg_control = control[i], m->msg_controllen = sizeof control[i];
        struct cmsghdr *c = CMSG_FIRSTHDR(m);
        c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
    }
    double began = now();
    while (now() < began + seconds) {
        long due = (long)((now() - began) * rate) - sent;
        while (due > 0) {
            int count = due < BATCH ? (int)due : BATCH;
            for (int i = 0; i < count; i++) {
                for (int k = 27; k < 59; k += 4) *(unsigned *)(void *)(data[i] + k) = random_word();
                struct in_pktinfo *info = (void *)CMSG_DATA((struct cmsghdr *)(void *)control[i]);
                info->ipi_ifindex = 0;
                unsigned host = random_word() & 0xffffff;
                info->ipi_spec_dst.s_addr = htonl(127U << 24 | (host ? host : 1));
            }
            int done = sendmmsg(s, messages, (unsigned)count, 0);
            if (done < 0) unsent += count, done = count;
            sent += done, due -= done;
        }
        usleep(1000);
    }
}

/* -- requests ------------------------------------------------------------------------------------------------- */

typedef struct {
    gnutls_session_t tls;
    int socket;
    unsigned message_id;
} Session;

static int ready_to_read(gnutls_transport_ptr_t pointer, unsigned milliseconds) {
    struct pollfd one = {.fd = (int)(long)pointer, .events = POLLIN};
    (void)milliseconds;
    return poll(&one, 1, 0) > 0;
}

static void begin(Session *s, gnutls_certificate_credentials_t credentials, gnutls_priority_t priority) {
    s->socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (s->socket < 0 || connect(s->socket, (struct sockaddr *)&server, sizeof server)) die("no socket");
    gnutls_init(&s->tls, GNUTLS_CLIENT | GNUTLS_DATAGRAM | GNUTLS_NONBLOCK);
    gnutls_priority_set(s->tls, priority);
    gnutls_credentials_set(s->tls, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(s->tls, s->socket);
    gnutls_transport_set_pull_timeout_function(s->tls, ready_to_read);
    gnutls_dtls_set_mtu(s->tls, 1232);
    gnutls_dtls_set_timeouts(s->tls, 1000, 60000);
    double limit = now() + 20;
    for (int code = gnutls_handshake(s->tls); code != 0; code = gnutls_handshake(s->tls)) {
        if (gnutls_error_is_fatal(code) || now() > limit) die("no handshake");
        struct pollfd one = {.fd = s->socket, .events = POLLIN};
        poll(&one, 1, 50);
    }
}

static int option(unsigned char *at, int delta, const void *value, int length) {
    int n = 1;
    at[0] = (unsigned char)(delta << 4 | (length < 13 ? length : 13));
    if (length >= 13) at[n++] = (unsigned char)(length - 13);
    memcpy(at + n, value, (size_t)length);
    return n + length;
}

static int text_option(unsigned char *at, int delta, const char *value) {
    return option(at, delta, value, (int)strlen(value));
}

static int request(unsigned char *b, const char *mode, const char *cuid, const char *prefix) {
    static const unsigned char scope[] = {0xff, 0xa1, 0x01, 0xa1, 0x02, 0x81, 0xa2, 0x06, 0x81};
    static const unsigned char lifetime[] = {0x0e, 0x19, 0x0e, 0x10};
    static const unsigned char heartbeat[] = {0xff, 0xa1, 0x18, 0x31, 0xa1, 0x18, 0x33, 0xf5};
    char words[300];
    int n = 8;
    b[0] = 0x54; /* version 1, NON, 4 octets of token */
    b[1] = strcmp(mode, "get") ? 3 : 1;
    n += text_option(b + n, 11, ".well-known");
    n += text_option(b + n, 0, "dots");
    n += text_option(b + n, 0, strcmp(mode, "beat") ? "mitigate" : "hb");
    if (!strcmp(mode, "beat")) {
        n += option(b + n, 1, "\x01\x0f", 2); /* Content-Format 271 */
        memcpy(b + n, heartbeat, sizeof heartbeat);
        return n + (int)sizeof heartbeat;
    }
    snprintf(words, sizeof words, "cuid=%s", cuid);
    n += text_option(b + n, 0, words);
    n += text_option(b + n, 0, "mid=1");
    if (!strcmp(mode, "put")) {
        n += option(b + n, 1, "\x01\x0f", 2);
        memcpy(b + n, scope, sizeof scope), n += sizeof scope;
        int length = (int)strlen(prefix);
        if (length < 24) b[n++] = (unsigned char)(0x60 + length);
        else b[n++] = 0x78, b[n++] = (unsigned char)length;
        memcpy(b + n, prefix, (size_t)length), n += length;
        memcpy(b + n, lifetime, sizeof lifetime), n += sizeof lifetime;
    }
    return n;
}

static void hear(Session *s) {
    unsigned char b[2048];
    for (;;) {
        ssize_t n = gnutls_record_recv(s->tls, b, sizeof b);
        if (n <= 0) return;
        if (n < 8 || b[1] >> 5 == 0 || (b[0] & 15) != 4) continue; /* what the server asks us goes unanswered */
        unsigned token;
        memcpy(&token, b + 4, 4);
        codes[b[1]]++;
        if (answered < REMEMBERED) latencies[answered] = (float)((now() - sent_at[token % REMEMBERED]) * 1e3);
        answered++;
    }
}

static void flood_requests(const char *mode, double rate, double seconds, char **words) {
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_key_file(credentials, words[0], words[1], GNUTLS_X509_FMT_PEM)) die("no certificate");
    gnutls_priority_init(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2", NULL);
    int count = atoi(words[2]), poller = epoll_create1(0);
    Session *all = calloc((size_t)count, sizeof *all);
    sent_at = calloc(REMEMBERED, sizeof *sent_at), latencies = calloc(REMEMBERED, sizeof *latencies);
    for (int i = 0; i < count; i++) {
        begin(&all[i], credentials, priority);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)i};
        epoll_ctl(poller, EPOLL_CTL_ADD, all[i].socket, &event);
    }
    unsigned char b[1024];
    int length = request(b, mode, words[3], words[4]);
    double began = now(), end = began + seconds;
    while (now() < end + LAST_ANSWERS && (now() < end || answered < sent)) {
        struct epoll_event events[64];
        double next = began + (double)(sent + 1) / rate;
        int wait = next < end && next - now() < 0.002 ? 0 : 1;
        int ready = epoll_wait(poller, events, 64, wait);
        for (int i = 0; i < ready; i++) hear(&all[events[i].data.u32]);
        for (int k = 0; k < 16; k++) {
            double due = began + (double)(sent + 1) / rate;
            if (due > now() || due > end) break;
            Session *s = &all[sent % count];
            unsigned token = (unsigned)sent;
            s->message_id++;
            b[2] = (unsigned char)(s->message_id >> 8), b[3] = (unsigned char)s->message_id;
            memcpy(b + 4, &token, 4);
            sent_at[token % REMEMBERED] = due;
            if (gnutls_record_send(s->tls, b, (size_t)length) < 0) unsent++;
            sent++;
        }
    }
    for (int i = 0; i < count; i++) gnutls_bye(all[i].tls, GNUTLS_SHUT_WR);
}

static int compare(const void *a, const void *b) {
    float d = *(const float *)a - *(const float *)b;
    return (d > 0) - (d < 0);
}

int main(int count, char **words) {
    if (count < 6) die("usage: flood MODE ADDRESS PORT RATE SECONDS [CERT KEY SESSIONS CUID PREFIX]");
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(words[3]));
    if (inet_pton(AF_INET, words[2], &server.sin_addr) != 1) die("ADDRESS is not an IPv4 address");
    double rate = atof(words[4]), seconds = atof(words[5]), began = now();
    if (!strcmp(words[1], "hellos")) flood_hellos(rate, seconds);
    else if (count == 11) flood_requests(words[1], rate, seconds, words + 6);
    else die("a certificate, a key, sessions, a cuid and a prefix are missing");
    long kept = answered < REMEMBERED ? answered : REMEMBERED;
    if (kept) qsort(latencies, (size_t)kept, sizeof *latencies, compare);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double cpu = use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
    printf("{\"sent\": %ld, \"unsent\": %ld, \"answered\": %ld, ", sent, unsent, answered);
    printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, ", kept ? latencies[kept / 2] : 0.f,
           kept ? latencies[kept * 99 / 100] : 0.f, kept ? latencies[kept - 1] : 0.f);
    printf("\"generator_core\": %.2f, \"codes\": {", cpu / (now() - began));
    const char *comma = "";
    for (int i = 0; i < 256; i++)
        if (codes[i]) printf("%s\"%d.%02d\": %ld", comma, i >> 5, i & 31, codes[i]), comma = ", ";
    printf("}}\n");
    return 0;
}
