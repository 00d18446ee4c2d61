// Package typo owns the guess which word was meant by one that is not known: "did you
// mean". It promises the same word for the same list, whatever its order, except that
// of two words equally near the first one is taken. It only compares; it must never
// accept a word in place of the one written.
package typo

import "strings"

// Nearest returns the word that was probably meant, at most so many slips away and
// never as many as the word has letters; "" where there is none. Case is no slip.
func Nearest(word string, known []string, slips int) string {
	best, least := "", min(slips+1, max(len(word), 1))
	for _, k := range known {
		if d := Distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// Distance counts the slips between two words: letters to insert, remove, replace or
// swap with their neighbour.
func Distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
