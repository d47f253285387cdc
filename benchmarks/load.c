/* A load generator for a DOTS signal channel: many DTLS sessions in one process, one request outstanding in each.
 *
 *   cc -O2 -o bin/load load.c -lgnutls
 *   bin/load MODE ADDRESS PORT CERT KEY SESSIONS SECONDS CUID FIRST_MID MIDS
 *
 * MODE: full, resumed   handshakes, each followed by close_notify
 *       get             GET of mid FIRST_MID + k, k below MIDS, spread over the sessions
 *       put             PUT of the same mids in turn; each mid asks for one address of 10.0.0.0/8, so a second round
 *                       refreshes what the first created
 *
 * Prints one JSON object: operations, seconds, percentiles in milliseconds, answers by code, repeats, and the share of
 * one core that the generator itself used, which must stay well below 1 for the figure to be the server's.
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

#define REPEAT_AFTER 3.0 /* seconds; RFC 9132, section 4.4 */
#define SAMPLES 4000000

typedef struct {
    gnutls_session_t tls;
    int socket, index, open, waiting;
    double began, sent, deadline;
    unsigned message_id, mid;
    unsigned char request[256];
    int length;
} Session;

static enum { FULL, RESUMED, GET, PUT } mode;
static struct sockaddr_in server;
static gnutls_certificate_credentials_t credentials;
static gnutls_priority_t priority;
static gnutls_datum_t ticket;
static const char *cuid;
static unsigned first_mid, mids, next_mid;
static int epoll, measuring;
static float *samples;
static long done, repeats, failed, resumed_count, codes[256];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void note(double began) {
    if (!measuring) return;
    if (done < SAMPLES) samples[done] = (float)((now() - began) * 1e3);
    done++;
}

/* -- sessions ------------------------------------------------------------------------------------------------- */

static int ready_to_read(gnutls_transport_ptr_t pointer, unsigned milliseconds) {
    struct pollfd one = {.fd = (int)(long)pointer, .events = POLLIN};
    (void)milliseconds;
    return poll(&one, 1, 0) > 0;
}

static void start(Session *s) {
    s->socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (s->socket < 0 || connect(s->socket, (struct sockaddr *)&server, sizeof server)) die("no socket");
    gnutls_init(&s->tls, GNUTLS_CLIENT | GNUTLS_DATAGRAM | GNUTLS_NONBLOCK);
    gnutls_priority_set(s->tls, priority);
    gnutls_credentials_set(s->tls, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(s->tls, s->socket);
    gnutls_transport_set_pull_timeout_function(s->tls, ready_to_read);
    gnutls_dtls_set_mtu(s->tls, 1232);
    gnutls_dtls_set_timeouts(s->tls, 1000, 60000);
    if (mode == RESUMED && ticket.data) gnutls_session_set_data(s->tls, ticket.data, ticket.size);
    s->open = s->waiting = 0;
    s->began = now();
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)s->index};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->socket, &event);
}

static void stop(Session *s) {
    if (s->open) gnutls_bye(s->tls, GNUTLS_SHUT_WR);
    gnutls_deinit(s->tls);
    close(s->socket);
}

/* -- requests ------------------------------------------------------------------------------------------------- */

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

static void ask(Session *s) {
    unsigned char *b = s->request;
    char words[64];
    s->mid = first_mid + next_mid++ % mids;
    s->message_id++;
    int n = 8;
    b[0] = 0x54; /* version 1, NON, 4 octets of token */
    b[1] = mode == PUT ? 3 : 1;
    b[2] = (unsigned char)(s->message_id >> 8);
    b[3] = (unsigned char)s->message_id;
    memcpy(b + 4, &s->message_id, 4);
    n += text_option(b + n, 11, ".well-known");
    n += text_option(b + n, 0, "dots");
    n += text_option(b + n, 0, "mitigate");
    snprintf(words, sizeof words, "cuid=%s", cuid);
    n += text_option(b + n, 0, words);
    snprintf(words, sizeof words, "mid=%u", s->mid);
    n += text_option(b + n, 0, words);
    if (mode == PUT) {
        static const unsigned char head[] = {0xff, 0xa1, 0x01, 0xa1, 0x02, 0x81, 0xa2, 0x06, 0x81};
        static const unsigned char tail[] = {0x0e, 0x19, 0x0e, 0x10};
        n += option(b + n, 1, "\x01\x0f", 2); /* Content-Format 271 */
        memcpy(b + n, head, sizeof head), n += sizeof head;
        int length = snprintf(words, sizeof words, "10.%u.%u.%u/32", s->mid >> 16 & 255, s->mid >> 8 & 255, s->mid & 255);
        b[n++] = (unsigned char)(0x60 + length);
        memcpy(b + n, words, (size_t)length), n += length;
        memcpy(b + n, tail, sizeof tail), n += sizeof tail;
    }
    s->length = n;
    s->sent = now();
    s->deadline = s->sent + REPEAT_AFTER;
    s->waiting = 1;
    gnutls_record_send(s->tls, b, (size_t)n);
}

static void repeat(Session *s) {
    s->request[2]++; /* a new Message ID under the same token */
    s->deadline = now() + REPEAT_AFTER;
    repeats++;
    gnutls_record_send(s->tls, s->request, (size_t)s->length);
}

static void hear(Session *s) {
    unsigned char b[2048];
    for (;;) {
        ssize_t n = gnutls_record_recv(s->tls, b, sizeof b);
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) return;
        if (n <= 0) {
            if (n == 0 || gnutls_error_is_fatal((int)n)) failed++, stop(s), start(s);
            return;
        }
        if (n < 8 || !s->waiting || memcmp(b + 4, s->request + 4, 4)) continue; /* a heartbeat, or a late copy */
        if (measuring) codes[b[1]]++;
        s->waiting = 0;
        note(s->sent);
        ask(s);
    }
}

/* -- the loop ------------------------------------------------------------------------------------------------- */

static void established(Session *s) {
    s->open = 1;
    if (mode == FULL || mode == RESUMED) {
        if (gnutls_session_is_resumed(s->tls)) resumed_count++;
        note(s->began);
        stop(s);
        start(s);
    } else {
        ask(s);
    }
}

static void advance(Session *s) {
    if (s->open) {
        hear(s);
        return;
    }
    int code = gnutls_handshake(s->tls);
    if (code == 0)
        established(s);
    else if (gnutls_error_is_fatal(code))
        failed++, stop(s), start(s);
}

static void run(Session *all, int count, double until) {
    struct epoll_event events[256];
    double looked = now();
    while (now() < until) {
        int n = epoll_wait(epoll, events, 256, 10);
        for (int i = 0; i < n; i++) advance(&all[events[i].data.u32]);
        if (now() - looked < 0.05) continue;
        looked = now();
        for (int i = 0; i < count; i++) {
            if (!all[i].open)
                advance(&all[i]); /* lets GnuTLS look at its retransmission timer */
            else if (all[i].waiting && looked > all[i].deadline)
                repeat(&all[i]);
        }
    }
}

static void get_ticket(void) {
    Session one = {.index = 0};
    int kind = mode;
    mode = FULL;
    start(&one);
    mode = kind;
    double until = now() + 10;
    while (gnutls_handshake(one.tls) != 0) {
        if (now() > until) die("no first handshake");
        usleep(1000);
    }
    if (gnutls_session_get_data2(one.tls, &ticket) || !ticket.size) die("no ticket");
    one.open = 1;
    stop(&one);
}

static int compare(const void *a, const void *b) {
    float d = *(const float *)a - *(const float *)b;
    return (d > 0) - (d < 0);
}

static void report(double seconds, double cpu) {
    long kept = done < SAMPLES ? done : SAMPLES;
    qsort(samples, (size_t)kept, sizeof *samples, compare);
    printf("{\"operations\": %ld, \"seconds\": %.3f, \"per_second\": %.1f, ", done, seconds, (double)done / seconds);
    printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, ", kept ? samples[kept / 2] : 0.f, kept ? samples[kept * 99 / 100] : 0.f);
    printf("\"repeats\": %ld, \"failed\": %ld, \"resumed\": %ld, \"generator_core\": %.2f, \"codes\": {", repeats, failed,
           resumed_count, cpu / seconds);
    const char *comma = "";
    for (int i = 0; i < 256; i++)
        if (codes[i]) printf("%s\"%d.%02d\": %ld", comma, i >> 5, i & 31, codes[i]), comma = ", ";
    printf("}}\n");
}

static double cpu_seconds(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

int main(int count, char **words) {
    if (count != 11) die("usage: load MODE ADDRESS PORT CERT KEY SESSIONS SECONDS CUID FIRST_MID MIDS");
    static const char *names[] = {"full", "resumed", "get", "put"};
    for (mode = FULL; mode <= PUT && strcmp(words[1], names[mode]); mode++)
        if (mode == PUT) die("MODE is full, resumed, get or put");
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(words[3]));
    if (inet_pton(AF_INET, words[2], &server.sin_addr) != 1) die("ADDRESS is not an IPv4 address");
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_key_file(credentials, words[4], words[5], GNUTLS_X509_FMT_PEM)) die("no certificate");
    gnutls_priority_init(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2", NULL);
    int sessions = atoi(words[6]);
    double seconds = atof(words[7]);
    cuid = words[8];
    first_mid = (unsigned)atol(words[9]);
    mids = (unsigned)atol(words[10]);

    samples = malloc(SAMPLES * sizeof *samples);
    Session *all = calloc((size_t)sessions, sizeof *all);
    epoll = epoll_create1(0);
    if (mode == RESUMED) get_ticket();
    for (int i = 0; i < sessions; i++) {
        all[i].index = i;
        all[i].message_id = (unsigned)i << 16 | 1;
        start(&all[i]);
        gnutls_handshake(all[i].tls);
    }
    double warm = now() + 1.0; /* the measurement begins when sessions are up and caches warm */
    if (mode == GET || mode == PUT) {
        double limit = now() + 30;
        for (int open = 0; open < sessions && now() < limit;) {
            run(all, sessions, now() + 0.2);
            open = 0;
            for (int i = 0; i < sessions; i++) open += all[i].open;
        }
        warm = now() + 1.0;
    }
    run(all, sessions, warm);
    measuring = 1;
    resumed_count = failed = repeats = 0;
    double began = now(), used = cpu_seconds();
    run(all, sessions, began + seconds);
    measuring = 0;
    report(now() - began, cpu_seconds() - used);
    return 0;
}
