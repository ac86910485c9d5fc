/* A server in C with CPython inside, as a Rust or C++ server has it: HTTP is answered by C threads, and some
 * of the answers need Python.
 *
 *   GET /health   answered by C alone
 *   GET /python   answered by Python: `1 + 1`
 *   GET /work     answered by Python: `desk.work()`
 *
 * Run as `embedded-server [PYTHON]`: runs those statements, prints `listening PORT` and serves 127.0.0.1 until
 * its standard input ends. Linked against libpython; the interpreter is started once, by the main thread, which
 * then gives up the GIL and never runs Python again.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *DESK =
    "import sys, types\n"
    "desk = types.ModuleType('desk')\n"
    "exec('def work():\\n    return 42', desk.__dict__)\n"
    "sys.modules['desk'] = desk\n";

/* The value of an expression as a number; -1 if it raised. */
static long evaluate(const char *expression) {
    PyGILState_STATE state = PyGILState_Ensure();
    long number = -1;
    PyObject *names = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject *value = PyRun_String(expression, Py_eval_input, names, names);
    if (value != NULL) {
        number = PyLong_AsLong(value);
        Py_DECREF(value);
    }
    if (PyErr_Occurred()) {
        PyErr_Print();
    }
    PyGILState_Release(state);
    return number;
}

static void answer(int connection, const char *request) {
    char body[64] = "ok";
    char message[256];
    if (strncmp(request, "GET /python ", 12) == 0) {
        snprintf(body, sizeof body, "%ld", evaluate("1 + 1"));
    } else if (strncmp(request, "GET /work ", 10) == 0) {
        snprintf(body, sizeof body, "%ld", evaluate("desk.work()"));
    }
    int length = snprintf(message, sizeof message,
                          "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %zu\r\n\r\n%s",
                          strlen(body), body);
    if (write(connection, message, (size_t)length) != length) {
        perror("write");
    }
}

static void *serve_one(void *argument) {
    int connection = (int)(long)argument;
    char request[1024];
    ssize_t length = read(connection, request, sizeof request - 1);
    if (length > 0) {
        request[length] = '\0';
        answer(connection, request);
    }
    close(connection);
    return NULL;
}

static void *serve(void *argument) {
    int listener = (int)(long)argument;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        pthread_t thread;
        if (connection >= 0 && pthread_create(&thread, NULL, serve_one, (void *)(long)connection) == 0) {
            pthread_detach(thread);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 ||
        listen(listener, 128) != 0 || getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        perror("listen");
        return 1;
    }
    Py_InitializeEx(0);
    if (PyRun_SimpleString(DESK) != 0 || (argc > 1 && PyRun_SimpleString(argv[1]) != 0)) {
        return 1;
    }
    PyThreadState *state = PyEval_SaveThread();
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, (void *)(long)listener) != 0) {
        return 1;
    }
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    char byte;
    for (;;) {
        ssize_t got = read(0, &byte, 1);
        if (got == 0) {
            break;
        }
    }
    PyEval_RestoreThread(state);
    return Py_FinalizeEx() < 0;
}
