/* A load generator for a DOTS signal channel: many DTLS sessions in one process, one request outstanding in each.
 *
 *   cc -O2 -o bin/load load.c -lgnutls
 *   bin/load MODE name=value ...
 *
 * MODE: full, resumed   handshakes, each followed by close_notify
 *       get             GET of mid first + k, k below mids, spread over the sessions; list: of all mids of the cuid
 *       put             PUT of the same mids in turn; each mid asks for one address of 10.0.0.0/8, so a second round
 *                       refreshes what the first created; with shift=n for the address of mid + n, which is refused
 *                       where that mid is live
 *       observe         GET with Observe of mid first in each session; then, once a run, a PUT refreshes it, and the
 *                       latencies are from the answer of that PUT to each notification
 *       expire          the same of mid first + k, one in each session; latencies are from the second `at` of the
 *                       wall clock, when all of them end
 *       hold            one GET in each session, which then does nothing until this program is ended
 *
 * Values: address, port, cert, key, sessions, runs, seconds (of one run), cuid, first, mids, shift, at, rate.
 *
 * With rate=n the sessions of get, list and put ask n times a second together, at fixed instants, however long answers
 * take; latencies are from those instants, so that an answer that comes late counts for whoever waits behind it too.
 *
 * Prints one JSON object a line: first {"open": sessions}; then for each run {"begin": true}, and at its end
 * operations, seconds, percentiles in milliseconds, answers by code, repeats, and the share of one core that the generator itself used, which must stay
 * well below 1 for the figure to be the server's.
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
#define OPENING 50       /* handshakes at once while sessions are set up */
#define OPEN_WITHIN 120.0
#define TOLD_WITHIN 15.0
#define BETWEEN_CHANGES 3.5 /* seconds; an observer is told at most once in three */
#define SAMPLES 4000000

typedef struct {
    gnutls_session_t tls;
    int socket, index, open, waiting, registered, told;
    double began, sent, deadline, due; /* due: when it is to ask next, where there is a rate */
    unsigned message_id, mid;
    unsigned char request[320];
    int length;
} Session;

static enum { FULL, RESUMED, GET, LIST, PUT, OBSERVE, EXPIRE, HOLD, MODES } mode;
static const char *mode_names[MODES] = {"full", "resumed", "get", "list", "put", "observe", "expire", "hold"};
static char **words;
static struct sockaddr_in server;
static gnutls_certificate_credentials_t credentials;
static gnutls_priority_t priority;
static gnutls_datum_t ticket;
static const char *cuid;
static unsigned first_mid, mids, next_mid, shift;
static int epoll, measuring, sessions, started;
static float *samples;
static double interval; /* seconds between two requests of one session; 0: each follows the answer before */
static double changed; /* when what is observed changed, monotonic; 0 before */
static long done, repeats, failed, resumed_count, codes[256];

static double clock_now(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double now(void) { return clock_now(CLOCK_MONOTONIC); }

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static const char *value(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (char **word = words; *word; word++)
        if (!strncmp(*word, name, length) && (*word)[length] == '=') return *word + length + 1;
    if (!otherwise) fprintf(stderr, "%s= is missing\n", name), exit(2);
    return otherwise;
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
    s->open = s->waiting = s->registered = 0;
    s->began = now();
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)s->index};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->socket, &event);
}

static void stop(Session *s) {
    if (s->open) gnutls_bye(s->tls, GNUTLS_SHUT_WR);
    gnutls_deinit(s->tls);
    close(s->socket);
}

static void restart(Session *s) {
    failed++;
    stop(s);
    start(s);
}

/* -- requests ------------------------------------------------------------------------------------------------- */

static int option(unsigned char *at, int delta, const void *data, int length) {
    int n = 1;
    at[0] = (unsigned char)(delta << 4 | (length < 13 ? length : 13));
    if (length >= 13) at[n++] = (unsigned char)(length - 13);
    memcpy(at + n, data, (size_t)length);
    return n + length;
}

static int text_option(unsigned char *at, int delta, const char *text) {
    return option(at, delta, text, (int)strlen(text));
}

static int body(unsigned char *b, unsigned mid) {
    static const unsigned char head[] = {0xff, 0xa1, 0x01, 0xa1, 0x02, 0x81, 0xa2, 0x06, 0x81};
    static const unsigned char tail[] = {0x0e, 0x19, 0x0e, 0x10};
    unsigned host = mid + shift;
    char prefix[32];
    int n = option(b, 1, "\x01\x0f", 2); /* Content-Format 271 */
    memcpy(b + n, head, sizeof head), n += sizeof head;
    int length = snprintf(prefix, sizeof prefix, "10.%u.%u.%u/32", host >> 16 & 255, host >> 8 & 255, host & 255);
    b[n++] = (unsigned char)(0x60 + length);
    memcpy(b + n, prefix, (size_t)length), n += length;
    memcpy(b + n, tail, sizeof tail), n += sizeof tail;
    return n;
}

static void send_request(Session *s, int put, int observe, unsigned mid) {
    unsigned char *b = s->request;
    char word[280];
    s->mid = mid;
    s->message_id++;
    b[0] = 0x54; /* version 1, NON, 4 octets of token */
    b[1] = put ? 3 : 1;
    b[2] = (unsigned char)(s->message_id >> 8);
    b[3] = (unsigned char)s->message_id;
    memcpy(b + 4, &s->message_id, 4);
    int n = 8;
    if (observe) n += option(b + n, 6, "", 0);
    n += text_option(b + n, observe ? 5 : 11, ".well-known");
    n += text_option(b + n, 0, "dots");
    n += text_option(b + n, 0, "mitigate");
    snprintf(word, sizeof word, "cuid=%s", cuid);
    n += text_option(b + n, 0, word);
    if (mode != LIST) {
        snprintf(word, sizeof word, "mid=%u", mid);
        n += text_option(b + n, 0, word);
    }
    if (put) n += body(b + n, mid);
    s->length = n;
    s->sent = now();
    s->deadline = s->sent + REPEAT_AFTER;
    s->waiting = 1;
    gnutls_record_send(s->tls, b, (size_t)n);
}

static void ask(Session *s) {
    unsigned mid = first_mid + next_mid++ % mids;
    if (mode == OBSERVE || mode == EXPIRE)
        send_request(s, 0, 1, first_mid + (unsigned)s->index % mids);
    else
        send_request(s, mode == PUT, 0, mid);
}

static void repeat(Session *s) {
    s->request[2]++; /* a new Message ID under the same token */
    s->deadline = now() + REPEAT_AFTER;
    repeats++;
    gnutls_record_send(s->tls, s->request, (size_t)s->length);
}

/* Sessions that ask once, and then hear what they are told. */
static int asks_once(void) { return mode == OBSERVE || mode == EXPIRE || mode == HOLD; }

static void answered(Session *s) {
    int watches = asks_once() && s->index < sessions;
    s->waiting = 0;
    if (watches && s->registered) {
        if (changed && !s->told) s->told = 1, note(changed);
    } else if (watches) {
        s->registered = 1;
    } else if (s->index >= sessions) {
        changed = now(); /* the answer comes after the commit */
    } else if (interval > 0) {
        note(s->due);
        s->due += interval;
    } else {
        note(s->sent);
        ask(s);
    }
}

static void ask_when_due(Session *all) {
    double t = now();
    for (int i = 0; i < started; i++)
        if (all[i].open && !all[i].waiting && all[i].due <= t) ask(&all[i]);
}

static void hear(Session *s) {
    unsigned char b[2048];
    for (;;) {
        ssize_t n = gnutls_record_recv(s->tls, b, sizeof b);
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) return;
        if (n <= 0) {
            if (n == 0 || gnutls_error_is_fatal((int)n)) restart(s);
            return;
        }
        if (n < 8 || memcmp(b + 4, s->request + 4, 4)) continue; /* a heartbeat, or a late copy */
        if (!s->waiting && !s->registered) continue;
        if (measuring) codes[b[1]]++;
        answered(s);
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
    } else if (interval > 0) {
        s->due = now() + interval * s->index / sessions;
    } else if (s->index < sessions) {
        ask(s);
    }
}

static void advance(Session *s) {
    if (s->open) {
        hear(s);
        return;
    }
    /* AGAIN does not mean that all of the datagram was looked at: without asking again it waits for the next timer. */
    int code = GNUTLS_E_AGAIN;
    for (int i = 0; i < 4 && code == GNUTLS_E_AGAIN; i++) code = gnutls_handshake(s->tls);
    if (code == 0)
        established(s);
    else if (gnutls_error_is_fatal(code))
        restart(s);
}

static void run(Session *all, double until) {
    struct epoll_event events[256];
    /* GnuTLS ends a resumed handshake only when it is called once more after its last flight, at no event. */
    int handshakes = mode == FULL || mode == RESUMED;
    double looked = now(), often = handshakes ? 0.001 : 0.05;
    while (now() < until) {
        int n = epoll_wait(epoll, events, 256, handshakes || interval > 0 ? 1 : 10);
        for (int i = 0; i < n; i++) advance(&all[events[i].data.u32]);
        if (interval > 0) ask_when_due(all);
        if (now() - looked < often) continue;
        looked = now();
        for (int i = 0; i < started; i++) {
            if (!all[i].open)
                advance(&all[i]); /* lets GnuTLS look at its retransmission timer */
            else if (all[i].waiting && looked > all[i].deadline)
                repeat(&all[i]);
        }
    }
}

static int count(Session *all, int registered) {
    int found = 0;
    for (int i = 0; i < started; i++) found += registered ? all[i].registered : all[i].open;
    return found;
}

/* Sessions one after another, OPENING handshakes at a time; those that ask once count when they are answered. */
static void open_all(Session *all, int wanted) {
    int registered = asks_once(), open = 0;
    double limit = now() + OPEN_WITHIN;
    while ((open = count(all, registered && wanted <= sessions)) < wanted) {
        if (now() > limit) die("not all sessions opened");
        for (; started < wanted && started - open < OPENING; started++) {
            all[started].index = started;
            all[started].message_id = (unsigned)started << 16 | 1;
            start(&all[started]);
            gnutls_handshake(all[started].tls);
        }
        run(all, now() + 0.02);
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

/* -- figures -------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    float d = *(const float *)a - *(const float *)b;
    return (d > 0) - (d < 0);
}

static double cpu_seconds(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

static double run_began, run_used;

static void begin(void) {
    printf("{\"begin\": true}\n");
    fflush(stdout);
    memset(codes, 0, sizeof codes);
    done = repeats = failed = resumed_count = 0;
    measuring = 1;
    run_began = now();
    run_used = cpu_seconds();
}

static void report(void) {
    double seconds = now() - run_began, cpu = cpu_seconds() - run_used;
    long kept = done < SAMPLES ? done : SAMPLES;
    measuring = 0;
    qsort(samples, (size_t)kept, sizeof *samples, compare);
    printf("{\"operations\": %ld, \"seconds\": %.3f, \"per_second\": %.1f, ", done, seconds, (double)done / seconds);
    printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, ", kept ? samples[kept / 2] : 0.f,
           kept ? samples[kept * 99 / 100] : 0.f, kept ? samples[kept - 1] : 0.f);
    printf("\"repeats\": %ld, \"failed\": %ld, \"resumed\": %ld, \"generator_core\": %.2f, \"codes\": {", repeats, failed,
           resumed_count, cpu / seconds);
    const char *comma = "";
    for (int i = 0; i < 256; i++)
        if (codes[i]) printf("%s\"%d.%02d\": %ld", comma, i >> 5, i & 31, codes[i]), comma = ", ";
    printf("}}\n");
    fflush(stdout);
}

static void until_all_are_told(Session *all) {
    double limit = changed + TOLD_WITHIN;
    while (done < sessions && now() < limit) run(all, now() + 0.005);
}

static void tell_of_changes(Session *all, int runs) {
    open_all(all, sessions + 1); /* one more, which makes the changes */
    Session *changer = &all[sessions];
    for (int i = 0; i < runs; i++) {
        changed = 0;
        run(all, now() + BETWEEN_CHANGES);
        for (int k = 0; k < sessions; k++) all[k].told = 0;
        begin();
        send_request(changer, 1, 0, first_mid);
        changed = changer->sent; /* for those that are told before the answer is here */
        while (changer->waiting && now() < changer->sent + TOLD_WITHIN) run(all, now() + 0.0005);
        until_all_are_told(all);
        report();
    }
}

static void tell_of_ends(Session *all, double at) {
    double left = at - clock_now(CLOCK_REALTIME);
    if (left < 0.5) die("too late: they have ended already");
    run(all, now() + left - 0.001);
    begin();
    changed = now() + at - clock_now(CLOCK_REALTIME);
    until_all_are_told(all);
    report();
}

int main(int argument_count, char **arguments) {
    if (argument_count < 2) die("usage: load MODE name=value ...");
    words = arguments + 2;
    while (mode < MODES && strcmp(arguments[1], mode_names[mode])) mode++;
    if (mode == MODES) die("there is no such mode");
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(value("port", NULL)));
    if (inet_pton(AF_INET, value("address", "127.0.0.1"), &server.sin_addr) != 1) die("address is not an IPv4 address");
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_key_file(credentials, value("cert", NULL), value("key", NULL), GNUTLS_X509_FMT_PEM))
        die("no certificate");
    gnutls_priority_init(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2", NULL);
    sessions = atoi(value("sessions", "1"));
    int runs = atoi(value("runs", "1"));
    double seconds = atof(value("seconds", "1"));
    cuid = value("cuid", "bench");
    first_mid = (unsigned)atol(value("first", "1"));
    mids = (unsigned)atol(value("mids", "1"));
    shift = (unsigned)atol(value("shift", "0"));
    double rate = atof(value("rate", "0"));
    if (rate > 0) interval = sessions / rate;

    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    if (setrlimit(RLIMIT_NOFILE, &files)) getrlimit(RLIMIT_NOFILE, &files), files.rlim_cur = files.rlim_max,
        setrlimit(RLIMIT_NOFILE, &files);
    samples = malloc(SAMPLES * sizeof *samples);
    Session *all = calloc((size_t)sessions + 1, sizeof *all);
    epoll = epoll_create1(0);
    if (mode == RESUMED) get_ticket();
    if (mode == FULL || mode == RESUMED)
        for (; started < sessions; started++) all[started].index = started, start(&all[started]), advance(&all[started]);
    else
        open_all(all, sessions);
    printf("{\"open\": %d}\n", started);
    fflush(stdout);
    if (mode == HOLD) run(all, 1e18);
    if (mode == OBSERVE) {
        tell_of_changes(all, runs);
    } else if (mode == EXPIRE) {
        tell_of_ends(all, atof(value("at", NULL)));
    } else {
        run(all, now() + 1.0); /* caches warm */
        for (int i = 0; i < runs; i++) {
            begin();
            run(all, run_began + seconds);
            report();
        }
    }
    return 0;
}
