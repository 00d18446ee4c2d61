//go:build vm

package test

// mappedService has users of its own, and shows that the image's files are theirs.
const mappedService = `
  - name: mapped
    image: keelson/busybox
    command: ["sh", "-c", "touch /etc/shadow; ls -ln /etc/shadow >/dev/stderr; exec sleep 1000000"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    annotations: {keelson.console: "true"}
`

// mappedSays is the line of it on the console. Who built the image need not have been root, but was not nobody.
const mappedSays = `mapped .*\| -rw-r----- +1 \d{1,4} +\d{1,4} .*/etc/shadow`
