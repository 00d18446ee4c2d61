// Package test boots whole machines and asserts what a user would see: on the console, from the host's side of
// a forwarded port, and in the machine's processes, mounts and files, which the agent of package guestagent
// shows without a shell in the root.
//
// Few machines are booted and each is asked a lot. Nothing here measures time; what must happen is awaited, and
// bound is only there so that a machine that hangs ends the test.
package test
