package cli

import (
	"flag"
	"fmt"
	"strings"
)

// withNames are the commands that are followed by names of services.
const withNames = "status audit start stop restart kill reload logs events exec wait"

const bashScript = `# bash completion of service
_service() {
	local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "@COMMANDS@ help" -- "$word"))
		return
	fi
	case "$before" in
	-o) COMPREPLY=($(compgen -W "json" -- "$word")); return ;;
	--stream) COMPREPLY=($(compgen -W "stdout stderr event kernel" -- "$word")); return ;;
	-s) COMPREPLY=($(compgen -A signal -- "$word")); return ;;
	esac
	case "$command" in
	help) COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word")) ;;
	completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")) ;;
	analyze) COMPREPLY=($(compgen -W "plot $(service list -o name 2>/dev/null)" -- "$word")) ;;
	@NAMED@) COMPREPLY=($(compgen -W "$(service list -o name 2>/dev/null)" -- "$word")) ;;
	esac
}
complete -F _service service
`

const zshScript = `#compdef service
_service() {
	if (( CURRENT == 2 )); then
		compadd @COMMANDS@ help
		return
	fi
	case "$words[2]" in
	help) compadd @COMMANDS@ ;;
	completion) compadd bash zsh fish ;;
	analyze) compadd plot ${(f)"$(service list -o name 2>/dev/null)"} ;;
	@NAMED@) compadd ${(f)"$(service list -o name 2>/dev/null)"} ;;
	esac
}
compdef _service service
`

const fishScript = `# fish completion of service
complete -c service -f
complete -c service -n '__fish_use_subcommand' -a '@COMMANDS@ help'
complete -c service -n '__fish_seen_subcommand_from help' -a '@COMMANDS@'
complete -c service -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'
complete -c service -n '__fish_seen_subcommand_from analyze' -a 'plot (service list -o name 2>/dev/null)'
complete -c service -n '__fish_seen_subcommand_from @NAMES@' -a '(service list -o name 2>/dev/null)'
`

func (a *app) completion(fs *flag.FlagSet, args []string) int {
	rest, err := parse(fs, args)
	if err != nil {
		return a.usage("completion", "%v", err)
	}
	scripts := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}
	if len(rest) != 1 || scripts[rest[0]] == "" {
		return a.usage("completion", "it is for one of bash, zsh and fish")
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	fmt.Fprint(a.out, strings.NewReplacer("@COMMANDS@", strings.Join(names, " "),
		"@NAMED@", strings.ReplaceAll(withNames, " ", "|"), "@NAMES@", withNames).Replace(scripts[rest[0]]))
	return codeOK
}
