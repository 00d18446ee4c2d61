package main

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// calls makes system calls by their numbers, with arguments of 0, prints what came
// of each, and stays.
func calls(numbers []string) error {
	for _, s := range numbers {
		nr, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(uintptr(nr), 0, 0, 0)
		fmt.Printf("call %d: %v\n", nr, errno)
	}
	fmt.Println("done")
	return unix.Pause()
}
