// Package stacks gives the threads of a binary with C in it small stacks.
//
// The C library gives each thread a stack of 8 MiB, as the limit for the stack is, and
// counts on it that what is not touched costs nothing. A kernel that gives huge pages
// unasked, as Debian's does, backs the first byte of it with 2 MB. That is the memory of a
// small service, and clearing it takes longer than the start of the thread.
//
// It promises to change nothing else: the limit for the stack, which containers inherit,
// stays.
package stacks

import "C" // for stacks.c
