/* A shim of another protocol: honest about it, otherwise good for nothing, and with every member that locald reads. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "version")) {
        puts("{\"version\":\"99.0.0\",\"protocol\":99,\"build\":\"unrecorded\"}");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "check")) {
        puts("{\"protocol\":99,\"kernel\":\"0.0.0\",\"setuid\":true,\"modes\":{\"mapped\":{\"allowed\":true,\"code\":null,"
             "\"why\":null},\"direct\":{\"allowed\":true,\"code\":null,\"why\":null}},\"policy\":{\"allowed\":true,"
             "\"code\":null,\"why\":null},\"effective\":{\"modes\":[\"mapped\",\"direct\"],\"bind-ports\":[],"
             "\"bind-addresses\":[],\"max-containers\":9,\"min-shim\":null},\"limits\":{},\"subids\":{\"uids\":0,\"gids\":0},\"cgroup\":\"v2\"}");
        return 0;
    }
    puts("ran");
    return 56;
}
